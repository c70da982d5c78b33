"""What `client.endpoints` and `client.secrets` share: a REST call, and its response as a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable
from functools import wraps
from inspect import iscoroutinefunction, unwrap
from typing import Any, TypeVar

from .._backends.sync_facade import SyncFacade
from .._deadline import FOREVER
from .._misnomers import NamesOurs, wrong_call
from .._protocol.reply import CallInfo
from .._transport.call import JSON
from .._transport.options import Options
from .._transport.replies import ReplyT, raise_if_not_json, reply_of
from .._transport.transport import Transport
from ..errors import APIError, APIStatusError, BadRequestError, ConflictError, Raw

ResourceT = TypeVar("ResourceT", bound="Resource")


def _explained(verb: Callable[..., Coroutine[Any, Any, Any]], name: str) -> Any:
    """A verb that answers arguments which it does not take with those that were probably meant."""

    @wraps(verb)
    async def explained(*args: Any, **options: Any) -> Any:
        try:
            coroutine = verb(*args, **options)
        except TypeError as error:
            raise wrong_call(explained, error, len(args), [*options]) from error.__cause__
        finally:
            del args, options  # so that no traceback with local variables shows a secret
        return await coroutine

    explained.__qualname__ = name
    return explained


class Resource(NamesOurs):
    """One area of the workspace's REST interface. Making one sends nothing; its calls use the client's options."""

    _names = "area"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in dir(cls):
            if name[0] != "_" and iscoroutinefunction(verb := unwrap(getattr(cls, name))):
                setattr(cls, name, _explained(verb, f"{cls.__qualname__}.{name}"))

    def __init__(self, transport: Transport, options: Options) -> None:
        self._transport = transport
        self._options = options

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._transport.host!r})"

    async def _invoke(
        self, method: str, path: str, body: object = None, *, accept: str = JSON, deadline: float = FOREVER
    ) -> CallInfo:
        """One call, which ends before `deadline` on the backend's clock."""
        ends = min(deadline, self._options.deadline(self._transport.backend.clock))
        try:
            info = await self._transport.call(self._options.call(ends, path, body, accept, method=method))
        except (ConflictError, BadRequestError) as error:
            if method == "POST" and _is_there(error) and any(_may_have_run(earlier) for earlier in error.previous):
                error.hint = "An earlier attempt of this call, whose response was lost, may have created it: check it."
            raise
        start = info.raw.body.lstrip()[:1]
        if start == b"<" or (start and accept == JSON):  # a sign-in page must not pass for "done"
            raise_if_not_json(info)
        return info

    async def _reply(
        self, model: type[ReplyT], method: str, path: str, body: object = None, *, deadline: float = FOREVER
    ) -> ReplyT:
        """One call; its response as a model."""
        return reply_of(model, await self._invoke(method, path, body, deadline=deadline))


class SyncResource(NamesOurs, SyncFacade[ResourceT]):
    """An area in plain code."""

    _names = "area"


def _is_there(error: APIStatusError) -> bool:
    return error.status == 409 or error.error_code == "RESOURCE_ALREADY_EXISTS"


def _may_have_run(error: APIError) -> bool:
    """Whether a failed attempt may have changed something: a refusal (429, say) did not, a lost response may have."""
    return error.sent and (error.status is None or error.status >= 500)


def redact_error(error: APIError, secrets: Iterable[str]) -> None:
    """Redact secrets that the workspace's error may echo."""
    runs = [run for secret in secrets for run in (*re.findall(r"\w{6,}", secret, re.ASCII), secret) if len(run) > 3]
    for refusal in (error, *error.previous):
        refusal.raw = refusal.raw and Raw(refusal.raw.status, refusal.raw.headers)
        if any(run in refusal.detail for run in runs):  # escaping a text does not change its runs of letters
            refusal.detail = "the workspace refused the secret, with a message that repeats it"
            refusal.args = (refusal.detail,)
