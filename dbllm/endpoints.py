"""The verbs: what can be asked of a driver proxy app, and of a serving endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from . import target
from .errors import APIError, APIStatusError, BadRequestError, NotFoundError, PermissionDeniedError
from .prompt import Options, Signature, chat_piece, chat_whole, joined, read_json, reply_of, text_piece
from .retry import Retry, Timeout
from .schema import ChatCompletion, ChatCompletionChunk, CompletionChunk, Embeddings, Message, Predictions
from .stream import Assemble, AsyncStream, C, Parse, R
from .target import Kind, Place, Verb
from .transport import EVENTS, JSON, Answer, Call, Opened, Transport

Messages = str | Message | Mapping[str, Any] | Sequence[Message | Mapping[str, Any]]
"""What `chat` takes: one user message as a str, a message, or a list of messages."""

Came = TypeVar("Came", bound=Answer)
Send = Callable[[Call], Awaitable[Came]]

ENDPOINTS = "/api/2.0/serving-endpoints"
EXPLAIN_SECONDS = 5.0  # what a failed call may spend on finding out why


class AsyncDriverApp:
    """A driver proxy app: a small HTTP server on a cluster's driver node. Making a handle sends nothing.

    Its contract: POST / with `{"prompt": str, "stop"?: [str], ...}`, answered by a JSON string; asked for it by
    `Accept: text/event-stream`, it may answer piece by piece.
    """

    _streaming: Mapping[str, Any] = {}  # the body stays the app's own schema: the header asks

    def __init__(
        self, transport: Transport, options: Options, signature: Signature, place: Place, tasks: dict[str, Kind]
    ) -> None:
        self._transport, self._options, self._signature = transport, options, signature
        self._place, self.name = place, place.name
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
        options = self._options.but(timeout, retry, headers, extra_body)
        return self._signature.text(*await self._ask("complete", flat, options, self._transport.call))

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
        options = self._options.but(timeout, retry, headers, extra_body)
        return self._stream("complete", flat, options, text_piece, joined)

    def _stream(
        self, verb: Verb, body: Mapping[str, Any], options: Options, parse: Parse[C], assemble: Assemble[C, R]
    ) -> AsyncStream[C, R]:
        asking = options.but(extra_body=self._streaming)

        async def start() -> Opened:
            return (await self._ask(verb, body, asking, self._transport.open, EVENTS))[1]

        return AsyncStream(self._transport, start, parse, assemble, options.timeout.read)

    async def _ask(
        self, verb: Verb, body: Mapping[str, Any], options: Options, send: Send[Came], accept: str = JSON
    ) -> tuple[Kind, Came]:
        """Send a request in the right envelope (only `complete`'s has none yet): what it went to, and what came."""
        call = options.call(self._transport, "POST", self._place.path, accept=accept)
        refused: list[BadRequestError] = []
        try:
            kind = await self._learn(call) if verb == "complete" else "app"
            for guess in target.guesses(kind, body):
                try:
                    whole = {**target.envelope(guess, body, self.name), **options.extra_body}
                    came = await send(replace(call, body=target.encode(whole)))
                except BadRequestError as error:
                    refused.append(error)
                else:
                    if kind is None:
                        self._tasks[self.name] = guess  # this one worked
                    return guess, came
            raise target.all_refused(refused)
        except APIStatusError as error:
            await self._explain(verb, error, call)
            raise

    async def _learn(self, call: Call) -> Kind | None:
        """What the endpoint speaks; None where looking it up is forbidden. Many callers make one look-up."""
        if known := self._place.kind or self._tasks.get(self.name):
            return known
        async with self._transport.leaf.lock(f"task {self.name}", call.deadline):
            if self.name not in self._tasks:
                path = f"{ENDPOINTS}/{target.quoted(self.name)}"
                try:
                    answer = await self._transport.call(replace(call, method="GET", path=path, body=None, accept=JSON))
                except PermissionDeniedError:
                    return None
                described = read_json(answer)
                self._tasks[self.name] = target.kind_of(described.get("task") if isinstance(described, dict) else None)
            return self._tasks[self.name]

    async def _explain(self, verb: Verb, error: APIStatusError, call: Call) -> None:
        """Find out what would have been right, and say so in the error's hint."""
        if error.status == 502:  # the driver proxy's own word for it
            error.hint = f"Is the app {self.name} (cluster:port) running, and listening on 0.0.0.0?"


class AsyncEndpoint(AsyncDriverApp):
    """A serving endpoint: a handle that holds no connection. Making one sends nothing."""

    _streaming = {"stream": True}

    async def chat(
        self,
        /,
        messages: Messages,
        *,
        stop: Sequence[str] | str | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> ChatCompletion:
        """Ask a chat endpoint (`llm/v1/chat`).

        Args:
            messages: a str (one user message), a message, or a list of `Message` or of dicts with role and content.
            stop, timeout, retry, headers, extra_body, **params: as for `complete`.

        Raises:
            TypeError, ValueError: an argument cannot be sent.
            APIError: the call failed.
        """
        body = target.chat_body(messages, stop, self._signature.params, params)
        options = self._options.but(timeout, retry, headers, extra_body)
        _, answer = await self._ask("chat", body, options, self._transport.call)
        return reply_of(ChatCompletion, answer)

    def stream_chat(
        self,
        /,
        messages: Messages,
        *,
        stop: Sequence[str] | str | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> AsyncStream[ChatCompletionChunk, ChatCompletion]:
        """As `chat`, piece by piece; `final()` is the whole answer. The call is made on entering the stream."""
        body = target.chat_body(messages, stop, self._signature.params, params)
        options = self._options.but(timeout, retry, headers, extra_body)
        return self._stream("chat", body, options, chat_piece, chat_whole)

    async def embed(
        self,
        /,
        input: str | Sequence[str],  # noqa: A002 - the field's name on the wire
        *,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> Embeddings:
        """Turn texts into vectors (`llm/v1/embeddings`).

        Args:
            input: a text or several; `.vectors` has one vector for each, in this order.
            timeout, retry, headers, extra_body, **params: as for `complete`.

        Raises:
            TypeError, ValueError: an argument cannot be sent.
            APIError: the call failed.
        """
        texts = target.embedding_input(input)
        body = {"input": texts, **target.wire_params(self._signature.params, params)}
        options = self._options.but(timeout, retry, headers, extra_body)
        _, answer = await self._ask("embed", body, options, self._transport.call)
        reply = reply_of(Embeddings, answer)
        if len(reply.data) != len(texts):
            raise reply._meta.unexpected(f"{len(texts)} texts were sent and {len(reply.data)} vectors came back")
        return reply

    async def predict(
        self,
        *,
        dataframe_records: Sequence[Mapping[str, Any]] | None = None,
        dataframe_split: Mapping[str, Any] | None = None,
        inputs: Any = None,
        instances: Any = None,
        params: Mapping[str, Any] | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> Predictions:
        """Call a custom model in one of the four forms of MLflow's scoring protocol.

        Args:
            dataframe_records: rows as dicts.
            dataframe_split: `{"columns": […], "data": [[…], …]}`, optionally with "index".
            inputs: a tensor, or columns as a dict of lists.
            instances: rows of a tensor, or dicts.
            params: the model's inference parameters.
            timeout, retry, headers, extra_body: as for `complete`.

        Raises:
            TypeError: not exactly one form was given.
            APIError: the call failed.
        """
        forms = {"dataframe_records": dataframe_records, "dataframe_split": dataframe_split}
        forms |= {"inputs": inputs, "instances": instances}
        body = target.prediction_body(forms, {**self._signature.params, **(params or {})})
        options = self._options.but(timeout, retry, headers, extra_body)
        _, answer = await self._ask("predict", body, options, self._transport.call)
        return reply_of(Predictions, answer)

    async def _explain(self, verb: Verb, error: APIStatusError, call: Call) -> None:
        if not isinstance(error, (NotFoundError, BadRequestError)):
            return
        if "unknown field" in error.detail:
            self._tasks.pop(self.name, None)  # the endpoint seems to have changed: look again next time
        look = self._options.but(EXPLAIN_SECONDS, Retry(attempts=1)).call(self._transport, "GET", ENDPOINTS)
        look = replace(look, deadline=min(look.deadline, call.deadline))
        try:
            if isinstance(error, NotFoundError):
                listed = read_json(await self._transport.call(look))
                error.hint = target.which_exist(self.name, listed) or error.hint
            elif verb != "complete":
                error.hint = target.which_verb(self.name, verb, await self._learn(look)) or error.hint
        except APIError:  # no explanation is no reason to hide the error itself
            return
