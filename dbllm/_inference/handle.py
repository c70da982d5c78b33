"""Driver proxy apps: `complete`, and what every verb goes through on its way to the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from .._protocol import paths, requests, tasks
from .._protocol.models import CompletionChunk
from .._protocol.paths import ENDPOINTS, EndpointRef
from .._protocol.tasks import Kind, Verb
from .._transport.call import EVENTS, JSON, Answer, Call, Opened
from .._transport.options import Options
from .._transport.replies import read_json
from .._transport.retry import Retry, Timeout
from .._transport.transport import Transport
from ..errors import APIStatusError, BadRequestError, PermissionDeniedError
from .chunks import completion_chunk, join_text
from .prompt import PromptSignature
from .stream import Assemble, AsyncStream, C, Parse, R

AnswerT = TypeVar("AnswerT", bound=Answer)
Send = Callable[[Call], Awaitable[AnswerT]]


class AsyncDriverApp:
    """A driver proxy app: a small HTTP server on a cluster's driver node. Making a handle sends nothing.

    Its contract: POST / with `{"prompt": str, "stop"?: [str], ...}`, answered by a JSON string; asked for it by
    `Accept: text/event-stream`, it may answer piece by piece.
    """

    _streaming: Mapping[str, Any] = {}  # the body stays the app's own schema: the header asks

    def __init__(
        self,
        transport: Transport,
        options: Options,
        signature: PromptSignature,
        ref: EndpointRef,
        tasks: dict[str, Kind],
    ) -> None:
        self._transport, self._options, self._signature = transport, options, signature
        self._ref, self.name = ref, ref.name
        self._tasks = tasks  # what each endpoint speaks, learned once per client

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
        **params: Any,
    ) -> str:
        """Ask for one text. It works on driver apps and on every kind of endpoint that makes text.

        Args:
            prompt: one prompt; a chat endpoint gets it as a user message.
            stop: text at which the model stops; the answer ends before it.
            timeout: seconds for the whole call, or a `Timeout`.
            retry: the policy for this call.
            headers: further request headers.
            extra_body: fields for the top level of the body, as they are.
            **params: the model's parameters (temperature=…, max_tokens=…); None is not sent.

        Raises:
            TypeError, ValueError: an argument cannot be sent.
            APIError: the call failed; see the tree in `dbllm.errors`.
        """
        flat = self._signature.request(prompt, stop, params)
        options = self._options.merged_with(timeout, retry, headers, extra_body)
        return self._signature.text(*await self._invoke("complete", flat, options, self._transport.call))

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
        **params: Any,
    ) -> AsyncStream[CompletionChunk, str]:
        """As `complete`, piece by piece; `final()` is the whole text. The call is made on entering the stream."""
        flat = self._signature.request(prompt, stop, params, streaming=True)
        options = self._options.merged_with(timeout, retry, headers, extra_body)
        return self._stream("complete", flat, options, completion_chunk, join_text)

    def _stream(
        self, verb: Verb, body: Mapping[str, Any], options: Options, parse: Parse[C], assemble: Assemble[C, R]
    ) -> AsyncStream[C, R]:
        asking = options.merged_with(extra_body=self._streaming)

        async def start() -> Opened:
            return (await self._invoke(verb, body, asking, self._transport.open, EVENTS))[1]

        return AsyncStream(self._transport, start, parse, assemble, options.timeout.read)

    async def _invoke(
        self,
        verb: Verb,
        body: Mapping[str, Any],
        options: Options,
        send: Send[AnswerT],
        accept: str = JSON,
        deadline: float | None = None,
    ) -> tuple[Kind, AnswerT]:
        """Send a request in the right envelope (only `complete`'s has none yet): what it went to, and what came."""
        ends = options.deadline(self._transport) if deadline is None else deadline
        refused: list[BadRequestError] = []
        try:
            kind = await self._lookup_task(options, ends) if verb == "complete" else "app"
            for guess in tasks.candidate_kinds(kind, body):
                try:
                    whole = {**requests.request_body(guess, body, self.name), **options.extra_body}
                    answer = await send(options.call(ends, "POST", self._ref.path, whole, accept))
                except BadRequestError as error:
                    refused.append(error)
                else:
                    if kind is None:
                        self._tasks[self.name] = guess  # this one worked
                    return guess, answer
            raise tasks.all_rejected(refused)
        except APIStatusError as error:
            await self._add_hint(verb, error, ends)
            raise

    async def _lookup_task(self, options: Options, deadline: float) -> Kind | None:
        """What the endpoint speaks; None where looking it up is forbidden. Many callers make one look-up."""
        if known := self._ref.kind or self._tasks.get(self.name):
            return known
        async with self._transport.backend.lock(f"task {self.name}", deadline):
            if self.name not in self._tasks:
                path = f"{ENDPOINTS}/{paths.quoted(self.name)}"
                try:
                    answer = await self._transport.call(options.call(deadline, "GET", path))
                except PermissionDeniedError:
                    return None
                described = read_json(answer)
                self._tasks[self.name] = tasks.kind_of_task(
                    described.get("task") if isinstance(described, dict) else None
                )
            return self._tasks[self.name]

    async def _add_hint(self, verb: Verb, error: APIStatusError, deadline: float) -> None:
        """Find out what would have been right, and say so in the error's hint."""
        if error.status == 502:  # the driver proxy's own word for it
            error.hint = f"Is the app {self.name} (cluster:port) running, and listening on 0.0.0.0?"
