"""The verbs: what can be asked of a driver proxy app, and of a serving endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from . import schema, target
from .errors import APIError, BadRequestError, InternalServerError, NotFoundError, PermissionDeniedError
from .prompt import Options, Signature, chat_piece, chat_whole, joined, read_json, read_predictions, text_piece
from .retry import Retry, Timeout
from .schema import ChatCompletion, ChatCompletionChunk, CompletionChunk, Embeddings, Message, Predictions
from .stream import AsyncStream
from .target import Kind
from .transport import EVENTS, JSON, Answer, Call, Opened, Transport

Messages = str | Message | Mapping[str, Any] | Sequence[Message | Mapping[str, Any]]
"""What `chat` takes: one user message as a str, a message, or a list of messages."""

Verb = Literal["complete", "chat", "embed", "predict"]
ReplyT = TypeVar("ReplyT", bound=schema.Reply)
Came = TypeVar("Came", bound=Answer)

ENDPOINTS = "/api/2.0/serving-endpoints"
EXPLAIN_SECONDS = 5.0  # what a failed call may spend on finding out why


class AsyncDriverApp:
    """A driver proxy app: a small HTTP server on a cluster's driver node. Making a handle sends nothing.

    Its contract: POST / with `{"prompt": str, "stop"?: [str], ...}`, answered by a JSON string; asked for it by
    `Accept: text/event-stream`, it may answer piece by piece.
    """

    def __init__(self, transport: Transport, options: Options, signature: Signature, path: str, name: str) -> None:
        self._transport = transport
        self._options = options
        self._signature = signature
        self._path = path
        self.name = name

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
        call = self._options.but(timeout, retry, headers).call(self._transport, "POST", self._path)
        kind, answer = await self._ask(call, flat, extra_body or {}, self._transport.call)
        return self._signature.text(kind, answer)

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
        self._signature.refuse_streaming()
        flat = self._signature.request(prompt, stop, params)
        options = self._options.but(timeout, retry, headers)

        async def start() -> Opened:
            call = options.call(self._transport, "POST", self._path, accept=EVENTS)
            return (await self._ask(call, flat, {**(extra_body or {}), **self._streaming}, self._transport.open))[1]

        return AsyncStream(self._transport, start, text_piece, joined, options.timeout.read)

    _streaming: Mapping[str, Any] = {}  # the body stays the app's own schema: the header asks

    async def _ask(
        self, call: Call, flat: Mapping[str, Any], extra: Mapping[str, Any], send: Callable[[Call], Awaitable[Came]]
    ) -> tuple[Kind, Came]:
        """Send a flat request in the right envelope: what it went to, and what `send` returns."""
        try:
            return "app", await send(replace(call, body=target.encode({**flat, **extra})))
        except InternalServerError as error:
            if error.status == 502:  # the driver proxy's own word for it
                error.hint = f"Is the app {self.name} (cluster:port) running, and listening on 0.0.0.0?"
            raise


class Tasks:
    """What each endpoint speaks, learned once per client."""

    def __init__(self) -> None:
        self.known: dict[str, Kind] = {}

    async def kind(self, transport: Transport, call: Call, name: str) -> Kind | None:
        """What the endpoint speaks; None where looking it up is forbidden. Many callers make one look-up."""
        if found := self.known.get(name):
            return found
        async with transport.leaf.lock(f"task {name}", call.deadline):
            if found := self.known.get(name):
                return found
            path = f"{ENDPOINTS}/{target.quoted(name)}"
            try:
                answer = await transport.call(replace(call, method="GET", path=path, body=None, accept=JSON))
            except PermissionDeniedError:
                return None
            content = read_json(answer)
            self.known[name] = target.kind_of(content.get("task") if isinstance(content, dict) else None)
            return self.known[name]


class AsyncEndpoint(AsyncDriverApp):
    """A serving endpoint: a handle that holds no connection. Making one sends nothing."""

    def __init__(
        self,
        transport: Transport,
        options: Options,
        signature: Signature,
        path: str,
        name: str,
        tasks: Tasks,
        kind: Kind | None,
    ) -> None:
        super().__init__(transport, options, signature, path, name)
        self._tasks = tasks
        self._kind: Kind | None = kind

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
        body = self._chat_body(messages, stop, params, extra_body)
        return await self._reply("chat", ChatCompletion, body, self._options.but(timeout, retry, headers))

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
        options = self._options.but(timeout, retry, headers)
        body = {**self._chat_body(messages, stop, params, extra_body), "stream": True}

        async def start() -> Opened:
            call = options.call(self._transport, "POST", self._path, body, EVENTS)
            return await self._explained("chat", call, self._transport.open)

        return AsyncStream(self._transport, start, chat_piece, chat_whole, options.timeout.read)

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
        body = {"input": texts, **target.wire_params(self._signature.params, params), **(extra_body or {})}
        reply = await self._reply("embed", Embeddings, body, self._options.but(timeout, retry, headers))
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
        options = self._options.but(timeout, retry, headers)
        call = options.call(self._transport, "POST", self._path, {**body, **(extra_body or {})})
        answer = await self._explained("predict", call, self._transport.call)
        return read_predictions(read_json(answer), answer)

    def _chat_body(
        self, messages: object, stop: object, params: Mapping[str, Any], extra_body: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        body = {"messages": target.chat_messages(messages), **target.checked_stop(stop)}
        return {**body, **target.wire_params(self._signature.params, params), **(extra_body or {})}

    async def _reply(self, verb: Verb, model: type[ReplyT], body: object, options: Options) -> ReplyT:
        call = options.call(self._transport, "POST", self._path, body)
        answer = await self._explained(verb, call, self._transport.call)
        try:
            reply = schema.parse(model, answer.raw.body)
        except ValidationError as error:
            flaw = schema.first_flaw(error)
            raise answer.meta.unexpected(f"the answer is no {model.__name__} ({flaw})") from error
        reply._meta = answer.meta
        return reply

    _streaming = {"stream": True}

    async def _ask(
        self, call: Call, flat: Mapping[str, Any], extra: Mapping[str, Any], send: Callable[[Call], Awaitable[Came]]
    ) -> tuple[Kind, Came]:
        refused: list[BadRequestError] = []
        try:
            kind = await self._learn(call)
            for guess in target.guesses(kind, flat):
                body = {**target.envelope(guess, flat, self.name), **extra}
                try:
                    came = await send(replace(call, body=target.encode(body)))
                except BadRequestError as error:
                    refused.append(error)
                    continue
                if kind is None:
                    self._tasks.known[self.name] = guess  # this one worked
                return guess, came
        except NotFoundError as error:
            await self._explain("complete", error, call)
            raise
        if "unknown field" in refused[-1].detail:
            self._tasks.known.pop(self.name, None)  # the endpoint seems to have changed: look again next time
        if len(refused) > 1:
            refused[-1].previous = (*refused[:-1], *refused[-1].previous)
            refused[-1].hint = (
                "This token may not look up the endpoint's task, so messages, prompt and dataframe_records were tried "
                f"in turn, and all were refused (the first: {refused[0].detail}); say which it is with task=."
            )
        raise refused[-1]

    async def _learn(self, call: Call) -> Kind | None:
        if self._kind is not None:
            return self._kind
        return await self._tasks.kind(self._transport, call, self.name)

    async def _explained(self, verb: Verb, call: Call, send: Callable[[Call], Awaitable[Came]]) -> Came:
        try:
            return await send(call)
        except (NotFoundError, BadRequestError) as error:
            await self._explain(verb, error, call)
            raise

    async def _explain(self, verb: Verb, error: NotFoundError | BadRequestError, call: Call) -> None:
        """Find out, where the token may, what would have been right, and say so in the error's hint."""
        options = self._options.but(EXPLAIN_SECONDS, Retry(attempts=1))
        look = options.call(self._transport, "GET", ENDPOINTS)
        look = replace(look, deadline=min(look.deadline, call.deadline))
        try:
            if isinstance(error, NotFoundError):
                error.hint = _which_exist(self.name, read_json(await self._transport.call(look))) or error.hint
            elif verb != "complete":
                kind = await self._learn(look)
                if kind is not None and verb not in target.VERBS[kind]:
                    verbs = " or ".join(f"{name}()" for name in target.VERBS[kind])
                    error.hint = f"Endpoint {self.name!r} does not do {verb}(): use {verbs}."
        except APIError:
            return


def _which_exist(name: str, content: Any) -> str:
    from difflib import get_close_matches

    listed = content.get("endpoints") if isinstance(content, dict) else None
    names = [str(item.get("name")) for item in listed or () if isinstance(item, dict)]
    if name in names:
        return "The endpoint exists; what was not found lies behind it."
    near = get_close_matches(name, names, 1)
    shown = ", ".join(sorted(names)[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return (f"Did you mean {near[0]!r}? " if near else "") + f"This workspace has: {shown or 'no endpoint at all'}."
