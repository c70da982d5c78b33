"""A model that can be called: `complete`, `generate`, and the steps that all calls share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .._misnomers import NamesOurs
from .._protocol.models import Completion, CompletionChunk
from .._protocol.reply import CallInfo
from .._protocol.requests import request_body
from .._protocol.routes import KIND_OF, EndpointRef, Learned, Route
from .._protocol.tasks import VERBS, Kind, Verb, all_rejected, candidate_kinds, wrong_verb_hint
from .._transport.call import EVENTS, JSON, Call, OpenStream
from .._transport.options import Options, hide_fields, hide_headers
from .._transport.replies import read_json
from .._transport.retry import Retry, Timeout
from .._transport.transport import Transport
from ..errors import APIStatusError, BadRequestError, ConfigError, PermissionDeniedError
from .chunks import C, R, StreamWire, TextWire
from .prompt import PromptSignature
from .stream import AsyncStream, Stream  # noqa: F401 - Stream: the sync verbs' annotations name it

if TYPE_CHECKING:
    from .fallback import Fallback

T = TypeVar("T")
InfoT = TypeVar("InfoT", bound=CallInfo)
Send = Callable[[Call], Awaitable[InfoT]]
Ask = Callable[..., Coroutine[Any, Any, Any]]
Read = Callable[[Any], T]
Sending = tuple[Verb, Kind, Mapping[str, Any], Options, float, Any]  # what `_send` begins with

_NOTHING_FAILED: Mapping[Route, APIStatusError] = {}
_ELSEWHERE = frozenset({400, 404, 405, 422, 501})  # refusals of a path that does not take this wire format


def same(answer: T) -> T:
    """What reads an answer that is read elsewhere."""
    return answer


def _ask(sending: Sending, accept: str, handle: ModelHandle, read: Any = same) -> Coroutine[Any, Any, Any]:
    return handle._send(*sending, read, accept)


class ModelHandle(NamesOurs):
    """A model that can be called: an endpoint or a driver app. It holds no connection; making one sends nothing."""

    _names = "endpoint"
    _streaming: Mapping[str, Any] = {}  # further body fields of a streamed call

    def __init__(
        self,
        transport: Transport,
        options: Options,
        signature: PromptSignature,
        ref: EndpointRef,
        known: dict[str, Learned],
    ) -> None:
        self._transport, self._options, self._signature = transport, options, signature
        self._ref, self._known = ref, known  # what is known of each endpoint, looked up once per client
        self._fallback: Fallback | None = None

    @property
    def name(self) -> str:
        """The endpoint's name, or the app's cluster and port."""
        return self._ref.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    async def complete(
        self,
        /,
        prompt: str,
        *,
        stop: Sequence[str] | str | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        **params: Any,
    ) -> str:
        """Generate one text. It works on driver apps and on every kind of endpoint that makes text.

        Args:
            prompt: one prompt; a chat endpoint gets it as a user message.
            stop: strings at which the model stops; the text ends before them.
            timeout: seconds for the whole call, or a `Timeout`.
            retry: the policy for this call.
            headers: further request headers.
            extra_body: further fields for the top level of the body, unchanged.
            tags: names and values for the workspace's usage tables, such as {"project": "x"}; they are added to those
                of the handle and the client.
            **params: the model's parameters (temperature=…, max_tokens=…); None is not sent.

        Raises:
            TypeError, ValueError: an argument cannot be sent.
            APIError: the call failed; see the tree in `dbllm.errors`.
        """
        headers, extra_body = hide_headers(headers), extra_body and hide_fields(extra_body)
        flat = self._signature.request(prompt, stop, params)
        options = self._options.merged_with(timeout, retry, headers, extra_body, tags)
        return await self._complete(flat, options, self._transport.call, lambda answer: self._signature.text(*answer))

    async def generate(
        self,
        /,
        prompt: str,
        *,
        stop: Sequence[str] | str | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        **params: Any,
    ) -> Completion:
        """As `complete`, and returns `usage`, `finish_reason`, `request_id` and `served_model` with the text.

        Every kind of endpoint gives a `Completion`; fields that the endpoint does not send are None.
        """
        headers, extra_body = hide_headers(headers), extra_body and hide_fields(extra_body)
        flat = self._signature.request(prompt, stop, params)
        options = self._options.merged_with(timeout, retry, headers, extra_body, tags)
        send, read = self._transport.call, self._signature.completion
        return await self._complete(flat, options, send, lambda answer: read(*answer))

    def stream_complete(
        self,
        /,
        prompt: str,
        *,
        stop: Sequence[str] | str | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        **params: Any,
    ) -> AsyncStream[CompletionChunk, str]:
        """As `complete`, piece by piece; `final()` is the whole text. The call is made on entering the stream."""
        headers, extra_body = hide_headers(headers), extra_body and hide_fields(extra_body)
        flat = self._signature.request(prompt, stop, params, streaming=True)
        options = self._options.merged_with(timeout, retry, headers, extra_body, tags)
        streaming = options.merged_with(extra_body=self._streaming)

        async def start(_: object) -> OpenStream:
            return await self._complete(flat, streaming, self._transport.open, lambda answer: answer[1], EVENTS)

        return AsyncStream(self._transport.backend.clock, start, TextWire(), options.timeout.read)

    def _stream(
        self, verb: Verb, body: Mapping[str, Any], options: Options, wire: StreamWire[C, R]
    ) -> AsyncStream[C, R]:
        """A stream for a verb and its complete body."""
        options = options.merged_with(extra_body=self._streaming)
        clock = self._transport.backend.clock

        async def start(_: object) -> OpenStream:
            sending = verb, KIND_OF[verb], body, options, options.deadline(clock), self._transport.open
            return await self._watched(verb, body, options, partial(_ask, sending, EVENTS), same, stream=True)

        return AsyncStream(clock, start, wire, options.timeout.read)

    def _invoke(
        self, verb: Verb, body: Mapping[str, Any], options: Options, read: Callable[[CallInfo], T]
    ) -> Coroutine[Any, Any, T]:
        """Send a complete body, and read the response."""
        transport = self._transport
        kind, ends = KIND_OF[verb], options.deadline(transport.backend.clock)
        if self._fallback is None:  # in some steps less
            if (observers := transport.observers) is None:
                return self._send(verb, kind, body, options, ends, transport.call, read)
            work = partial(self._send, verb, kind, body, options, ends, transport.call, same)
            return observers.watch((verb, self.name, transport.host, False, body), work, read, ends)
        ask = partial(_ask, (verb, kind, body, options, ends, transport.call), JSON)
        return self._watched(verb, body, options, ask, read)

    def _complete(
        self, flat: Mapping[str, Any], options: Options, send: Send[InfoT], read: Read[T], accept: str = JSON
    ) -> Coroutine[Any, Any, T]:
        """Send a prompt in the form that the endpoint's kind takes; `read` gets the kind and the response."""
        ends = options.deadline(self._transport.backend.clock)
        if self._fallback is None and self._transport.observers is None:  # as in `_invoke`
            return self._send_prompt(flat, options, ends, send, read, accept)
        ask: Ask = lambda handle, read=same: handle._send_prompt(flat, options, ends, send, read, accept)  # noqa: E731
        return self._watched("complete", flat, options, ask, read, stream=accept == EVENTS)

    def _watched(
        self, verb: Verb, body: Mapping[str, Any], options: Options, ask: Ask, read: Read[T], stream: bool = False
    ) -> Coroutine[Any, Any, T]:
        """One call, of which hooks are told: `ask(handle)` this endpoint, or its fallback, and `read` the answer."""
        if self._fallback is None and self._transport.observers is None:
            return ask(self, read)  # in one step less
        work, clock = partial(ask, self), self._transport.backend.clock
        if self._fallback is not None:
            work = partial(self._fallback.first_answer, ask, options.retry, clock)
        about = verb, self.name, self._transport.host, stream, body
        return self._transport.watch(about, work, read, options.deadline(clock))

    async def _send_prompt(
        self, flat: Mapping[str, Any], options: Options, ends: float, send: Send[InfoT], read: Read[T], accept: str
    ) -> T:
        rejected: list[BadRequestError] = []
        try:
            learned = self._known.get(self.name)
            if self._ref.kind is None and (learned is None or learned.kind is None):
                learned = await self._learn(options, ends)
            known = self._ref.kind or (learned.kind if learned else None)
            for kind in candidate_kinds(known, flat, self._ref.guesses):
                try:
                    body = request_body(kind, flat, self.name)
                    info = await self._send("complete", kind, body, options, ends, send, same, accept)
                except BadRequestError as error:
                    rejected.append(error)
                else:
                    if known is None:
                        accepted = self._known.get(self.name) or Learned(None, ())
                        self._known[self.name] = replace(accepted, kind=kind)
                    break
            else:
                raise all_rejected(rejected)
        except APIStatusError as error:
            await self._explain("complete", error, ends)
            raise
        return read((kind, info))

    async def _send(
        self,
        verb: Verb,
        kind: Kind,
        body: Mapping[str, Any],
        options: Options,
        deadline: float,
        send: Send[InfoT],
        read: Callable[[InfoT], T],
        accept: str = JSON,
    ) -> T:
        """Send a body where its kind is taken. If it is refused there, the endpoint's description may name another."""
        ref, failed = self._ref, _NOTHING_FAILED
        untried = ref.routes_for(kind, self._known.get(ref.name))
        while untried:
            path, model, origin, details = route = untried[0]
            try:
                if origin is not None:
                    self._transport.add_data_plane(origin, path, details)
                whole = body if model is None else {**body, "model": model}
                info = await send(options.call(deadline, path, whole, accept, None, origin, model, verb == "embed"))
            except APIStatusError as error:
                failed = {**failed, route: error}
                if verb != "complete":
                    await self._explain(verb, error, deadline)
                untried = self._untried(kind, failed)
                if error.status not in _ELSEWHERE or (len(failed) == 1 and not untried):
                    raise
            else:
                if failed or len(untried) > 1:
                    self._remember(kind, route)
                info.endpoint = ref.name
                return read(info)
        raise self._refused_everywhere(verb, failed)

    def _untried(self, kind: Kind, failed: Mapping[Route, object]) -> tuple[Route, ...]:
        """The routes that are left: what was learned of the endpoint meanwhile may name others."""
        routes = self._ref.routes_for(kind, self._known.get(self._ref.name))
        return tuple(route for route in routes if route not in failed)

    def _refused_everywhere(self, verb: Verb, failed: Mapping[Route, APIStatusError]) -> APIStatusError:
        """The error to raise: of a route that takes this wire format, else one that says that none does."""
        errors = [*failed.values()]
        telling = [error for route, error in failed.items() if error.status in (400, 422) and route != self._ref.own]
        error = (telling or errors)[-1]
        error.previous = (*(each for each in errors if each is not error), *error.previous)
        known = self._known.get(self.name)
        if not telling and known and known.kinds:
            error.hint = wrong_verb_hint(self.name, verb, tuple(each for each in known.verbs if each != verb))
        return error

    def _remember(self, kind: Kind, route: Route) -> None:
        """Of several routes this one was accepted."""
        known = self._known.get(self.name) or Learned(None, ())
        self._known[self.name] = replace(known, routes={**known.routes, kind: (route,)})

    async def _learn(self, options: Options, deadline: float) -> Learned | None:
        """What the endpoint's description says; None if it may not be read. Concurrent callers share one look-up."""
        if (known := self._known.get(self.name)) and known.kind:
            return known
        async with self._transport.backend.lock(f"task {self.name}", deadline):
            if (known := self._known.get(self.name)) is None or known.kind is None:
                try:
                    described = read_json(await self._transport.call(options.call(deadline, self._ref.described_at)))
                except PermissionDeniedError:
                    return None
                if (learned := self._ref.learn(described)) is None:
                    return None
                if learned.own is not None:
                    try:
                        await self._transport.require_oauth(deadline)
                    except ConfigError as flaw:  # an older one is also called at the workspace's URL
                        learned = replace(learned, own=None, advice=f"It is route-optimised: {flaw}")
                self._known[self.name] = learned
            return self._known[self.name]

    async def _lookup_verbs(self) -> tuple[Verb, ...]:
        """The verbs that the endpoint does; none if looking it up is forbidden."""
        if self._ref.kind:
            return VERBS[self._ref.kind]
        deadline = self._options.deadline(self._transport.backend.clock)
        try:
            learned = await self._learn(self._options, deadline)
        except APIStatusError as error:
            await self._explain("complete", error, deadline)
            raise
        return (learned.verbs or (VERBS[learned.kind] if learned.kind else ())) if learned else ()

    async def _explain(self, verb: Verb, error: APIStatusError, deadline: float) -> None:
        """Find out how to call the endpoint correctly: learn it, and write it into the error's hint."""
