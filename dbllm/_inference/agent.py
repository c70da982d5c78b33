"""Agents on Databricks Apps, and their runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .._misnomers import NamesOurs
from .._protocol.agents import APPS, INVOCATIONS, RESPONSES, AgentWire, run_id_of
from .._protocol.models import Response, ResponseEvent
from .._protocol.paths import not_found_hint, quoted
from .._protocol.reply import CallInfo
from .._protocol.requests import chat_messages, model_params, prompt_request, refuse_stop
from .._transport.call import EVENTS, JSON, Call, OpenStream
from .._transport.options import EXPLAIN_SECONDS, Options, hide_fields, hide_headers
from .._transport.pages import read_pages
from .._transport.replies import read_json
from .._transport.retry import Retry, Timeout
from .._transport.transport import Transport
from ..errors import APIError, APIStatusError, ConflictError, NotFoundError
from .endpoint import Items
from .run import AsyncRun, RunEvents, run_response
from .stream import AsyncStream, Stream  # noqa: F401 - Stream: the sync verbs' annotations name it

T = TypeVar("T")
InfoT = TypeVar("InfoT", bound=CallInfo)

_NOT_THERE = frozenset({404, 405})
_REUSED = (
    "A run's id belongs to one request for ever, and this one is another: leave out id=, or take the run that has it "
    "with run(id)."
)
_NO_PLACE = (
    "Nothing of this app takes {}: Agent Bricks and other apps with invocations have no place for it. Leave it out, or "
    "check the app's name."
)
_REFUSED = "The app lets nobody in without an OAuth token of somebody who may use it (permission CAN_USE on the app)."


@dataclass(slots=True)
class AgentPlace:
    """Where an agent is, and what it speaks; what is learned of it serves all handles of the client."""

    name: str
    origin: str | None = None
    wire: AgentWire | None = None


class AsyncAgent(NamesOurs):
    """An agent on Databricks Apps. Making a handle sends nothing.

    Its app has a host of its own, which gets the client's OAuth token and no other credential. Calls may be sent again
    after any failure where the app takes ids that the client makes, as those of Agent Bricks do.
    """

    _names = "agent, endpoint"

    def __init__(self, transport: Transport, options: Options, place: AgentPlace) -> None:
        self._transport, self._options, self._where = transport, options, place

    @property
    def name(self) -> str:
        """The app's name, or its address."""
        return self._where.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    async def respond(
        self,
        /,
        input: Items,  # noqa: A002 - the field's name on the wire
        *,
        session_id: str | None = None,
        custom_inputs: Mapping[str, Any] | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> Response:
        """Call the agent, and wait for its response.

        Args:
            input: a str (one user message), or a list of messages and of output items of earlier responses.
            session_id: the conversation that this belongs to, if the agent keeps them.
            custom_inputs, **params: further fields; apps that speak the older Responses format alone take them.
            timeout, retry, headers, extra_body: as for `AsyncEndpoint.complete`.

        Raises:
            ConfigError: the client has no OAuth token, or the app has no place for an argument; nothing was sent.
            TypeError, ValueError: an argument cannot be sent.
            APIError: the call failed, or the agent did.
        """
        headers, extra_body = hide_headers(headers), hide_fields(extra_body)
        options = self._options.merged_with(timeout, retry, headers, extra_body)
        items, more = _input_items(input), _more(custom_inputs, params)
        return await self._watched(
            "respond",
            items,
            lambda: self._start(items, session_id, more, options, self._transport.call),
            lambda started: run_response(started[2]),
        )

    def stream_respond(
        self,
        /,
        input: Items,  # noqa: A002
        *,
        session_id: str | None = None,
        custom_inputs: Mapping[str, Any] | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> AsyncStream[ResponseEvent, Response]:
        """As `respond`, event by event; `final()` is the whole response. The call is made on entering the stream.

        A stream whose connection breaks goes on from where it was, if the app keeps the events of its runs.
        """
        items, more = _input_items(input), _more(custom_inputs, params)
        headers, extra_body = hide_headers(headers), hide_fields(extra_body)
        options = self._options.merged_with(timeout, retry, headers, extra_body)

        async def start(stream: RunEvents) -> OpenStream:
            flags, opens = {"stream": True}, self._transport.open
            run, wire, info = await self._watched(
                "respond",
                items,
                lambda: self._start(items, session_id, more, options, opens, EVENTS, flags),
                lambda started: started,
                stream=True,
            )
            if wire.makes_id:
                stream.follow(self._run(run, wire, options))
            return info

        return RunEvents(self._transport.backend, start, options.timeout.read)

    async def complete(
        self,
        /,
        prompt: str,
        *,
        session_id: str | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> str:
        """The text of the agent's response to one prompt; arguments and errors as for `respond`."""
        headers, extra_body = hide_headers(headers), hide_fields(extra_body)
        _more(None, params)  # raises for what is no parameter
        own = prompt_request(prompt, None, model_params(params))
        reply = await self.respond(
            own.pop("prompt"),
            session_id=session_id,
            timeout=timeout,
            retry=retry,
            headers=headers,
            extra_body=extra_body,
            **own,
        )
        return reply.text

    async def start(
        self,
        /,
        input: Items,  # noqa: A002
        *,
        id: str | None = None,  # noqa: A002 - the field's name on the wire
        session_id: str | None = None,
        custom_inputs: Mapping[str, Any] | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> AsyncRun:
        """Start a run in the background; it goes on whether or not anybody waits for it.

        Args:
            input, session_id, custom_inputs, timeout, retry, headers, extra_body, **params: as for `respond`.
            id: a UUID for the run; default: a new one. The same id with the same input is the same run.

        Raises:
            ConflictError: the id was used for another request.
            ValueError: the id is no UUID.
            ConfigError, TypeError, APIError: as for `respond`.
        """
        headers, extra_body = hide_headers(headers), hide_fields(extra_body)
        options = self._options.merged_with(timeout, retry, headers, extra_body)
        more, run_id = _more(custom_inputs, params), run_id_of(id)
        items, flags, send = _input_items(input), {"background": True}, self._transport.call
        run, wire, info = await self._watched(
            "start",
            items,
            lambda: self._start(items, session_id, more, options, send, flags=flags, run_id=run_id),
            lambda started: started,
        )
        started = self._run(run, wire, options)
        started._note(info)
        return started

    def run(self, id: str) -> AsyncRun:  # noqa: A002
        """A run that was started earlier, perhaps by another process. Making the handle sends nothing."""
        if not isinstance(id, str) or not id.strip():
            raise ValueError(f"a run has an id, got {id!r}.")
        return self._run(id, self._where.wire, self._options)

    def _run(self, run_id: str, wire: AgentWire | None, options: Options) -> AsyncRun:
        return AsyncRun(self._transport, options, run_id, wire, self._learned_wire, self._origin)

    def _learned_wire(self, wire: AgentWire | None = None) -> AgentWire | None:
        """What the agent speaks; with an argument, remember it."""
        self._where.wire = wire or self._where.wire
        return self._where.wire

    def _watched(
        self,
        verb: str,
        items: Sequence[Any],
        work: Callable[[], Awaitable[tuple[str, AgentWire, InfoT]]],
        read: Callable[[tuple[str, AgentWire, InfoT]], T],
        stream: bool = False,
    ) -> Coroutine[Any, Any, T]:
        """One call, of which hooks are told."""
        about = verb, self.name, self._where.origin or self._transport.host, stream, {"input": items}
        return self._transport.watch(about, work, read)

    async def _start(
        self,
        items: Sequence[Any],
        session_id: str | None,
        more: Mapping[str, Any],
        options: Options,
        send: Callable[[Call], Awaitable[InfoT]],
        accept: str = JSON,
        flags: Mapping[str, bool] | None = None,
        run_id: str | None = None,
    ) -> tuple[str, AgentWire, InfoT]:
        """Start a run in the format that the app takes; returns its id, the format and the response."""
        ends = options.deadline(self._transport.backend.clock)
        origin = await self._origin(options, ends)
        run_id = run_id or run_id_of(None)
        known = self._where.wire
        for wire in (known,) if known else (INVOCATIONS, RESPONSES):
            body = {**wire.body(run_id, items, session_id, more if known or not wire.makes_id else {}), **(flags or {})}
            if not known and wire.makes_id and more:
                continue  # it would be refused for a field that the other format has
            call = options.call(ends, wire.path, body, accept, origin=origin)
            call.idempotent = wire.makes_id
            try:
                info = await send(call)
            except APIStatusError as error:
                if error.status in _NOT_THERE and known is None and wire is INVOCATIONS:
                    continue
                no_place = _NO_PLACE.format(", ".join(more)) if more and error.status in _NOT_THERE else ""
                error.hint = no_place or _hint(error) or error.hint
                raise
            self._where.wire = wire
            return run_id, wire, info
        raise AssertionError("the last format returns or raises")

    async def _origin(self, options: Options, deadline: float) -> str:
        """The app's origin, looked up once by its name."""
        place, transport = self._where, self._transport
        if place.origin is None:
            await transport.require_oauth(deadline)
            async with transport.backend.lock(f"app {place.name}", deadline):
                if place.origin is None:
                    path = f"{APPS}/{quoted(place.name, 'an app')}"
                    try:
                        info = await transport.call(options.call(deadline, path))
                    except NotFoundError as error:
                        error.hint = await self._apps_hint(deadline) or error.hint
                        raise
                    described = read_json(info)
                    url = described.get("url") if isinstance(described, dict) else None
                    if not url:
                        raise info.unexpected(f"the app {place.name!r} has no url yet", "Deploy it, and start it.")
                    place.origin = transport.add_app(url)
        return place.origin

    async def _apps_hint(self, deadline: float) -> str:
        options = self._options.merged_with(EXPLAIN_SECONDS, Retry(attempts=1))
        ends = min(deadline, options.deadline(self._transport.backend.clock))

        async def get(path: str) -> CallInfo:
            return await self._transport.call(options.call(ends, path))

        try:
            apps = await read_pages(get, APPS, {}, "apps")
        except APIError:
            return ""
        names = sorted(str(app.get("name")) for app in apps if isinstance(app, dict))
        return not_found_hint(self.name, names).replace("no endpoint", "no app")


def _input_items(value: Items) -> list[Any]:
    return chat_messages(value, "respond", ("role", "type"))


def _more(custom_inputs: Mapping[str, Any] | None, params: Mapping[str, Any]) -> dict[str, Any]:
    refuse_stop(params)
    if "tags" in params:
        raise TypeError("an agent's calls have the client's tags: pass them to it, or use client.with_options(tags=…).")
    return {**({} if custom_inputs is None else {"custom_inputs": custom_inputs}), **model_params(params)}


def _hint(error: APIStatusError) -> str:
    if isinstance(error, ConflictError):
        return _REUSED
    return _REFUSED if error.status in (302, 303, 307, 401, 403) else ""
