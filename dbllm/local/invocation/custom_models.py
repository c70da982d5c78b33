"""Custom models behind a serving endpoint: a user's Python callable, or an MLflow scoring server.

The body and the answer are those of MLflow's scoring protocol (see `scoring`). A callable with a parameter `prompt` is
asked row by row, `fn(prompt, stop=None, **params)`; any other gets the data whole, `fn(data)` or `fn(data, params)`:
the list of records of a dataframe, or what stood under `inputs` or `instances`. What a callable does not take is not
handed to it, as a column or parameter outside an MLflow signature is not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from starlette.requests import Request
from starlette.responses import Response

from dbllm.local.errors import LocalError, Problem, bad_request
from dbllm.local.gateway.gateway import EXECUTION
from dbllm.local.http.asgi import Emit, EventStream, decode_json, until_gone
from dbllm.local.http.client import http_client, is_loopback
from dbllm.local.invocation import callables, scoring
from dbllm.local.invocation.callables import Answerer, Prompt, RefusedError
from dbllm.local.json_values import json_type
from dbllm.local.management.served_entity import Entity

logger = logging.getLogger("dbllm.local")

T = TypeVar("T")
FORWARDED_HEADERS = ("content-type", "accept")
"""Request headers that an MLflow scoring server looks at."""


class Customs:
    """The custom models of a workspace.

    Args:
        targets: by the name of the model or served entity, "module:function" or the URL of an MLflow scoring server.

    Raises:
        LocalError: a URL that cannot be one of a scoring server.
    """

    def __init__(self, targets: Mapping[str, str | Answerer] | None = None) -> None:
        self._models: dict[str, _CallableModel | _ScoringServer] = {}
        self._to_load: dict[str, str] = {}
        for name, target in (targets or {}).items():
            if callable(target):
                self._models[name] = _CallableModel(callables.as_answerer(target))
            elif "://" in target:
                self._models[name] = _ScoringServer(scoring_url(target))
            else:
                self._to_load[name] = target

    def load(self) -> None:
        """Import the modules of the callables.

        Raises:
            LocalError: one cannot be loaded.
        """
        while self._to_load:
            name, target = self._to_load.popitem()
            self._models[name] = _CallableModel(callables.load_callable(target))

    async def call(self, request: Request, entity: Entity, body: bytes) -> Response:
        """The answer of a custom model to one invocation, whose body has been read.

        Raises:
            Problem: whatever went wrong before the first byte of the answer.
            ClientGoneError: the client went away.
        """
        model = self._models.get(entity.entity_name) or self._models.get(entity.name)
        if model is None:
            raise Problem(
                404,
                "RESOURCE_DOES_NOT_EXIST",
                f"Nothing stands behind the model '{entity.entity_name}': start the workspace with "
                f"`dbllm up --custom {entity.entity_name}=module:function`.",
            )
        return await model.answer(request, {"served-model-name": entity.name}, body)

    async def close(self) -> None:
        """Close the connections to the scoring servers."""
        for model in self._models.values():
            if isinstance(model, _ScoringServer):
                await model.close()


def scoring_url(target: str) -> str:
    """Where a scoring server takes invocations.

    Raises:
        LocalError: it is no URL, or plain http to another machine.
    """
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LocalError(f"{target} is neither module:function nor the URL of an MLflow scoring server.")
    if parts.scheme == "http" and not is_loopback(target):
        raise LocalError(f"{target} must be https: plain http is for this machine only.")
    return target if parts.path.endswith("/invocations") else f"{target.rstrip('/')}/invocations"


@dataclass(frozen=True, slots=True)
class _CallableModel:
    """A callable as a model."""

    answerer: Answerer

    async def answer(self, request: Request, headers: Mapping[str, str], body: bytes) -> Response:
        scoring.check_content_type(request.headers.get("content-type", ""))
        decoded = decode_json(body)
        wanted = scoring.parse_scoring(decoded) if self._by_row or _is_table(decoded) else None
        if wanted is not None and self._by_row:
            prompts = [self._prompt(row) for row in wanted.rows]
            if not wanted.stream:
                texts = await until_gone(request.receive, self._guarded(self._texts(prompts)))
                return _json_response(texts, headers, wrapped=wanted.wrapped)
            if len(prompts) != 1:
                raise bad_request(f"a stream answers one row, got {len(prompts)}")
            return EventStream(lambda emit: self._guarded(self._emit_text(prompts[0], emit)), headers)
        data, params, wrapped = _whole(decoded, wanted)
        arguments = {"params": params} if "params" in callables.signature(self.answerer)[0] else {}
        if isinstance(decoded, dict) and decoded.get("stream") is True:
            return EventStream(lambda emit: self._guarded(self._emit_values(data, arguments, emit)), headers)
        result = await until_gone(request.receive, self._guarded(self._result(data, arguments)))
        return _json_response(result, headers, wrapped=wrapped)

    @property
    def _by_row(self) -> bool:
        return "prompt" in callables.signature(self.answerer)[0]

    def _prompt(self, row: scoring.Row) -> Prompt:
        names, takes_any = callables.signature(self.answerer)
        known = [name for name in row if name not in ("prompt", "stop") and (takes_any or name in names)]
        ask = scoring.read_row(row, known)
        return Prompt(ask.prompt, ask.stop, ask.params)

    async def _texts(self, prompts: list[Prompt]) -> list[str]:
        return [
            await callables.whole_text(self.answerer, callables.call_arguments(self.answerer, prompt), prompt.stop)
            for prompt in prompts
        ]

    async def _result(self, data: object, arguments: Mapping[str, object]) -> object:
        async with aclosing(callables.values(self.answerer, data, **arguments)) as outputs:
            values = [value async for value in outputs]
        return values[0] if len(values) == 1 else values

    async def _emit_text(self, prompt: Prompt, emit: Emit) -> None:
        arguments = callables.call_arguments(self.answerer, prompt)
        async with aclosing(callables.pieces(self.answerer, arguments, prompt.stop)) as pieces:
            async for piece in pieces:
                await emit(piece)

    async def _emit_values(self, data: object, arguments: Mapping[str, object], emit: Emit) -> None:
        async with aclosing(callables.values(self.answerer, data, **arguments)) as outputs:
            async for value in outputs:
                await emit(plain(value))

    async def _guarded(self, work: Coroutine[Any, Any, T]) -> T:
        """What the callable raises becomes MLflow's 400; its traceback stays in the workspace's log."""
        try:
            return await work
        except Problem:
            raise
        except RefusedError as error:
            raise Problem(400, "BAD_REQUEST", str(error)) from error
        except Exception as error:
            logger.exception("a custom model failed")
            raise Problem(
                400,
                "BAD_REQUEST",
                "Encountered an unexpected error while evaluating the model. Verify that the input is compatible with "
                f"the model for inference. Error: {type(error).__name__}: {error}",
            ) from error


class _ScoringServer:
    """An MLflow scoring server: what it answers is the endpoint's answer."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http: httpx.AsyncClient | None = None

    async def answer(self, request: Request, headers: Mapping[str, str], body: bytes) -> Response:
        self._http = self._http or http_client(EXECUTION)
        sent = {name: request.headers[name] for name in FORWARDED_HEADERS if name in request.headers}
        outgoing = self._http.build_request("POST", self._url, headers=sent, content=body)
        try:
            response = await until_gone(request.receive, self._http.send(outgoing))
        except httpx.TimeoutException as error:
            raise Problem(504, "DEADLINE_EXCEEDED", f"The model at {self._url} took too long.") from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Problem(
                503, "TEMPORARILY_UNAVAILABLE", f"The model at {self._url} cannot be reached: {reason}."
            ) from error
        kind = response.headers.get("content-type", "application/json")
        return Response(response.content, response.status_code, {**headers, "content-type": kind})

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None


def _is_table(decoded: object) -> bool:
    """Whether the data is a dataframe; other data of a callable that takes it whole need not be rows."""
    whole = ("inputs", "instances", *scoring.UNIFIED)
    return not isinstance(decoded, dict) or not any(key in decoded for key in whole)


def _whole(decoded: Any, wanted: scoring.Scoring | None) -> tuple[object, object, bool]:
    """The data for a callable that takes all of it, the params, and whether the answer is wrapped."""
    if wanted is not None:
        form = next(key for key in scoring.INPUT_FORMS if key in decoded)
        without = scoring.parse_scoring({form: decoded[form]})  # rows without the params, which stand beside them
        return [dict(row) for row in without.rows], decoded.get("params") or {}, True
    params = decoded.get("params")
    if params is not None and not isinstance(params, dict):
        raise Problem(400, "BAD_REQUEST", f"'params' must be a JSON object, got {json_type(params)}.")
    if any(key in decoded for key in scoring.UNIFIED):
        ours = (*scoring.AROUND, "params")
        return {key: value for key, value in decoded.items() if key not in ours}, params or {}, False
    forms = [key for key in scoring.INPUT_FORMS if key in decoded]
    if len(forms) != 1:
        scoring.parse_scoring(decoded)  # says what is wrong
    return decoded[forms[0]], params or {}, True


def plain(value: Any) -> object:
    """A result as JSON has it: the arrays and frames of numpy and pandas become lists and records."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return plain(value.to_dict(orient="records"))
    return plain(value.tolist()) if hasattr(value, "tolist") else value


def _json_response(result: object, headers: Mapping[str, str], *, wrapped: bool) -> Response:
    predictions = plain(result)
    try:
        text = json.dumps({"predictions": predictions} if wrapped else predictions, ensure_ascii=False, allow_nan=False)
        content = text.encode()
    except (TypeError, ValueError) as error:
        raise Problem(500, "INTERNAL_ERROR", f"The model's answer cannot be told as JSON: {error}.") from error
    return Response(content, headers=headers, media_type="application/json")
