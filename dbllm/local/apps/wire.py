"""What the agent's app answers with: errors in FastAPI's shape, and streams of a run's events."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dbllm.local.apps.runs import Run
from dbllm.local.errors import Problem
from dbllm.local.http.asgi import until_gone
from dbllm.local.json_values import Json

ModelT = TypeVar("ModelT", bound=BaseModel)
T = TypeVar("T")


@dataclass
class AppProblem(Problem):
    """An error of an app, as FastAPI answers it: `{"detail": ...}`."""

    detail: object = field(default="")

    def body(self) -> dict[str, object]:
        return {"detail": self.detail}


def app_problem(status: int, detail: object) -> AppProblem:
    """An error of an app: a sentence, or a list of what is wrong where."""
    return AppProblem(status, "APP_ERROR", detail if isinstance(detail, str) else json.dumps(detail), {}, detail)


def read_model(model: type[ModelT], body: bytes) -> ModelT:
    """A request's body as a model.

    Raises:
        AppProblem: 422 with what is wrong where.
    """
    try:
        decoded = json.loads(body or b"null")
    except ValueError as error:
        place = {"type": "json_invalid", "loc": ["body", getattr(error, "pos", 0)], "msg": "JSON decode error"}
        raise app_problem(422, [{**place, "input": {}, "ctx": {"error": str(error)}}]) from error
    return _validated(lambda: model.model_validate(decoded), "body")


def read_parameter(kind: type[T], value: object, *place: str) -> T:
    """A parameter of the path or the query as the type it has.

    Raises:
        AppProblem: 422 with what is wrong where.
    """
    return _validated(lambda: TypeAdapter(kind).validate_python(value), *place)


def _validated(read: Callable[[], T], *place: str) -> T:
    try:
        return read()
    except ValidationError as error:
        details: list[Json] = json.loads(error.json(include_url=False))
        for detail in details:
            detail["loc"] = [*place, *detail["loc"]]  # type: ignore[misc]
        raise app_problem(422, details) from error


Frame = Callable[[int, Json], str]
"""A frame of a stream: of the event's number, from 1 on, and the event."""


class RunStream(Response):
    """The events of a run as server-sent events, from a place on.

    Args:
        run: the run.
        after: how many events the reader has already.
        frame: makes the frame of an event.
        last: what is sent behind the last event.
        only_reader: nobody else can read it, so the run ends when this one goes away.
    """

    def __init__(
        self,
        run: Run,
        after: int,
        frame: Frame,
        last: Callable[[Run], str] = lambda _run: "",
        *,
        only_reader: bool = False,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache"}, media_type="text/event-stream")
        del self.headers["content-length"]
        self._run = run
        self._after = after
        self._frame = frame
        self._last = last
        self._only_reader = only_reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_gone(receive, self._send_all(send))
        finally:
            if self._only_reader:
                self._run.cancel()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for number, event in self._run.follow(self._after):
            await _send_text(send, self._frame(number, event))
        await _send_text(send, self._last(self._run))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_text(send: Send, text: str) -> None:
    if text:
        await send({"type": "http.response.body", "body": text.encode("utf-8", "replace"), "more_body": True})
