"""What the rooms of the control plane share: a REST call whose answer is JSON or a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlencode

from pydantic import ValidationError

from .errors import APIResponseError
from .prompt import Options, read_json
from .schema import Reply, WireModel, first_flaw
from .transport import JSON, Answer, Transport

ModelT = TypeVar("ModelT", bound=WireModel)


class Control:
    """One area of the workspace's REST interface. Making one sends nothing; defaults are the client's."""

    def __init__(self, transport: Transport, options: Options) -> None:
        self._transport = transport
        self._options = options

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._transport.host!r})"

    async def _ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
        deadline: float = float("inf"),
    ) -> Answer:
        """One call; it ends before `deadline`, on the leaf's clock."""
        whole = f"{path}?{urlencode(query)}" if query else path
        call = self._options.call(self._transport, method, whole, body, accept)
        return await self._transport.call(replace(call, deadline=min(call.deadline, deadline)))


def content_of(answer: Answer) -> dict[str, Any]:
    """The answer's JSON object; an empty body is an empty one.

    Raises:
        APIResponseError: it is something else.
    """
    content = read_json(answer) if answer.raw.body.strip() else {}
    if not isinstance(content, dict):
        raise answer.meta.unexpected(f"the answer is a JSON {type(content).__name__}, not an object")
    return content


def items_of(answer: Answer, key: str) -> list[Any]:
    """The list under `key`; the workspace leaves an empty one out.

    Raises:
        APIResponseError: there is something else.
    """
    items = content_of(answer).get(key) or []
    if not isinstance(items, list):
        raise answer.meta.unexpected(f"{key!r} in the answer is no list")
    return items


def model_of(model: type[ModelT], content: object, answer: Answer) -> ModelT:
    """The answer, or a part of it, as a model.

    Raises:
        APIResponseError: it does not fit.
    """
    try:
        made = model.model_validate(content)
    except ValidationError as error:
        flaw: APIResponseError = answer.meta.unexpected(f"the answer is no {model.__name__} ({first_flaw(error)})")
        raise flaw from error
    if isinstance(made, Reply):
        made._meta = answer.meta
    return made
