"""The verbs of a serving endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from .._lazy import WholeImport
from .._protocol.models import (
    ChatCompletion,
    ChatCompletionChunk,
    Embeddings,
    Message,
    OutputItem,
    ParsedT,
    Predictions,
    Response,
    ResponseEvent,
)
from .._protocol.paths import (
    ENDPOINTS,
    MODEL_SERVICES,
    NO_GATEWAY,
    endpoint_names,
    no_gateway_hint,
    not_found_hint,
    quoted,
    same_endpoint,
    same_service,
    service_hint,
    service_names,
)
from .._protocol.reply import CallInfo
from .._protocol.requests import chat_body, checked_params, prediction_body, response_body
from .._protocol.structured_output import parsed, response_format
from .._protocol.tasks import Verb, wrong_verb_hint
from .._transport.options import EXPLAIN_SECONDS, Options, hide_fields, hide_headers
from .._transport.pages import PAGE_SIZE, read_pages
from .._transport.replies import read_json, reply_of
from .._transport.retry import Retry, Timeout
from ..errors import APIError, APIStatusError, BadRequestError, NotFoundError
from .batching import Batch, merge_replies, positive, split
from .chunks import ChatWire, ResponsesWire, response_of
from .handle import ModelHandle, same
from .progress import OnProgress, ProgressReport, progress_function
from .stream import AsyncStream, Stream  # noqa: F401 - Stream: the sync verbs' annotations name it

_ONE_MODEL = "It is route-optimised, and its own URL names no served model: leave out served_model=."

Messages = str | Message | Mapping[str, Any] | Sequence[Message | Mapping[str, Any]]
"""What `chat` takes: one user message as a str, a message, or a list of messages."""

Items = str | Message | OutputItem | Mapping[str, Any] | Sequence[Message | OutputItem | Mapping[str, Any]]
"""What `respond` takes: one user message as a str, or items: messages, and outputs of earlier responses."""


class AsyncEndpoint(ModelHandle):
    """A handle for a serving endpoint. It holds no connection, and making one sends nothing."""

    _streaming = {"stream": True}

    async def chat(
        self,
        /,
        messages: Messages,
        *,
        response_model: type[ParsedT] | None = None,
        stop: Sequence[str] | str | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        **params: Any,
    ) -> ChatCompletion[ParsedT]:
        """Call a chat endpoint (`llm/v1/chat`), or an agent that takes messages.

        Args:
            messages: a str (one user message), a message, or a list of `Message` or of dicts with role and content.
            response_model: a pydantic model, dataclass or TypedDict. Its JSON schema is sent as `response_format`, and
                the reply's `parsed` is an instance of it.
            stop, timeout, retry, headers, extra_body, tags, **params: as for `complete`.

        Raises:
            TypeError, ValueError: an argument cannot be sent.
            APIError: the call failed; an `APIResponseError` if the text does not fit the `response_model`.
        """
        headers, extra_body = hide_headers(headers), extra_body and hide_fields(extra_body)
        body = chat_body(messages, stop, response_format(response_model), self._signature.params, params)
        options = self._options.merged_with(timeout, retry, headers, extra_body, tags)

        def read(info: CallInfo) -> ChatCompletion[ParsedT]:
            return parsed(response_model, reply_of(ChatCompletion, info))

        return await self._invoke("chat", body, options, read)

    def stream_chat(
        self,
        /,
        messages: Messages,
        *,
        response_model: type[ParsedT] | None = None,
        stop: Sequence[str] | str | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        **params: Any,
    ) -> AsyncStream[ChatCompletionChunk, ChatCompletion[ParsedT]]:
        """As `chat`, chunk by chunk; `final()` is the whole reply. The call is made on entering the stream."""
        headers, extra_body = hide_headers(headers), extra_body and hide_fields(extra_body)
        body = chat_body(messages, stop, response_format(response_model), self._signature.params, params)
        options = self._options.merged_with(timeout, retry, headers, extra_body, tags)
        choices = n if isinstance(n := body.get("n"), int) else 1
        return self._stream("chat", body, options, ChatWire(response_model, choices))

    async def respond(
        self,
        /,
        input: Items,  # noqa: A002 - the field's name on the wire
        *,
        custom_inputs: Mapping[str, Any] | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        **params: Any,
    ) -> Response:
        """Call an agent (`agent/v1/responses`).

        Args:
            input: a str (one user message), or a list of messages and of output items of earlier responses.
            custom_inputs: further inputs that this agent defines.
            timeout, retry, headers, extra_body, tags, **params: as for `complete`.

        Raises:
            TypeError, ValueError: an argument cannot be sent.
            APIError: the call failed.
        """
        headers, extra_body = hide_headers(headers), extra_body and hide_fields(extra_body)
        body = response_body(input, custom_inputs, self._signature.params, params)
        options = self._options.merged_with(timeout, retry, headers, extra_body, tags)
        return await self._invoke("respond", body, options, response_of)

    def stream_respond(
        self,
        /,
        input: Items,  # noqa: A002
        *,
        custom_inputs: Mapping[str, Any] | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        **params: Any,
    ) -> AsyncStream[ResponseEvent, Response]:
        """As `respond`, event by event; `final()` is the whole response. The call is made on entering the stream."""
        headers, extra_body = hide_headers(headers), extra_body and hide_fields(extra_body)
        body = response_body(input, custom_inputs, self._signature.params, params)
        options = self._options.merged_with(timeout, retry, headers, extra_body, tags)
        return self._stream("respond", body, options, ResponsesWire())

    async def embed(
        self,
        /,
        input: str | Iterable[str],  # noqa: A002 - the field's name on the wire
        *,
        batch_size: int = 100,
        batch_bytes: int = 3_500_000,
        concurrency: int = 8,
        progress: OnProgress | bool | None = None,
        timeout: float | Timeout | None = None,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        **params: Any,
    ) -> Embeddings:
        """Turn texts into vectors (`llm/v1/embeddings`).

        Many texts are sent in several requests, concurrently (`Client` sends one after another). If one fails, the
        others are cancelled.

        Args:
            input: a text or several: a list, a tuple, a generator, a column of pandas or polars, an array of numpy …;
                `.vectors` has one vector for each, in this order. A set has none.
            batch_size: the most texts in one request.
            batch_bytes: the most bytes of text in one request; Databricks refuses bodies of over 4 MB. A longer text is
                sent alone.
            concurrency: the most requests at once.
            progress: a function, sync or async, that is called after each request with how many texts have their
                vectors and how many there are: (done, total). An exception that it raises is logged, and the call goes
                on. True shows a line on a terminal and in a notebook.
            timeout: seconds for all requests together, or a `Timeout`.
            retry, headers, extra_body, tags, **params: as for `complete`.

        Raises:
            TypeError, ValueError: an argument cannot be sent.
            APIError: the call failed.
        """
        headers, extra_body = hide_headers(headers), extra_body and hide_fields(extra_body)
        wire = checked_params((self._signature.params, params), "embed")
        options = self._options.merged_with(timeout, retry, headers, extra_body, tags)
        deadline = options.deadline(self._transport.backend.clock)

        with WholeImport():
            from .._protocol.tables import read_texts

        batches, limit = split(read_texts(input), batch_size, batch_bytes), positive("concurrency", concurrency)
        show = progress_function(progress)

        async def ask(handle: ModelHandle, report: ProgressReport, batch: Batch) -> Embeddings:
            body, send = {"input": batch.texts, **wire}, self._transport.call
            try:
                reply = await handle._send("embed", "embeddings", body, options, deadline, send, batch.reply)
            except APIError as error:
                error.hint = batch.hint(error.hint)
                raise
            await report.add(len(batch.texts))
            return reply

        async def ask_all(handle: ModelHandle, *_: Any) -> Embeddings:  # the vectors of one model, whichever it is
            report = ProgressReport(show, batches[0].of, self._transport.backend.call_user_function)
            calls = [partial(ask, handle, report, batch) for batch in batches]
            return merge_replies(await self._transport.backend.run_bounded(calls, limit))

        given = {"input": input, **wire}
        return await self._watched("embed", given, options, ask_all, same)

    async def predict(
        self,
        data: Any = None,
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
        tags: Mapping[str, str] | None = None,
    ) -> Predictions:
        """Call a custom model in one of the four forms of MLflow's scoring protocol.

        Args:
            data: a table of pandas or polars (it is sent as `dataframe_split`), an array of numpy (`inputs`), or a list
                of dicts (`dataframe_records`). Missing values are null; times are ISO 8601 text.
            dataframe_records: rows as dicts.
            dataframe_split: `{"columns": […], "data": [[…], …]}`, optionally with "index".
            inputs: a tensor, or columns as a dict of lists.
            instances: rows of a tensor, or dicts.
            params: the model's inference parameters.
            timeout, retry, headers, extra_body, tags: as for `complete`.

        Raises:
            TypeError, ValueError: nothing or several of these were passed, or JSON has no form for a value; the message
                names its column and row.
            APIError: the call failed.
        """
        headers, extra_body = hide_headers(headers), extra_body and hide_fields(extra_body)
        forms = {"dataframe_records": dataframe_records, "dataframe_split": dataframe_split}
        forms |= {"inputs": inputs, "instances": instances}
        body = prediction_body(data, forms, self._signature.params, params)
        options = self._options.merged_with(timeout, retry, headers, extra_body, tags)
        return await self._invoke("predict", body, options, partial(reply_of, Predictions))

    async def _explain(self, verb: Verb, error: APIStatusError, deadline: float) -> None:
        options = self._options.merged_with(EXPLAIN_SECONDS, Retry(attempts=1))
        deadline = min(deadline, options.deadline(self._transport.backend.clock))
        try:
            if self._ref.is_service and error.status in (404, 501):
                error.hint = await self._service_hint(error.error_code, options, deadline) or error.hint
            elif isinstance(error, NotFoundError) and error.error_code != "FEATURE_DISABLED":
                error.hint = await self._not_found_hint(verb, options, deadline) or error.hint
            elif isinstance(error, BadRequestError):
                if "unknown field" in error.detail:
                    self._known.pop(self.name, None)  # the endpoint seems to have changed: look it up next time
                learned = self._known.get(self.name) if verb == "complete" else await self._learn(options, deadline)
                if learned is not None:
                    verbs = () if verb == "complete" else learned.verbs
                    advice = _ONE_MODEL if learned.own and self._ref.served_model else learned.advice
                    error.hint = advice or wrong_verb_hint(self.name, verb, verbs) or error.hint
        except APIError:  # then the error is raised without a better hint
            return

    async def _not_found_hint(self, verb: Verb, options: Options, deadline: float) -> str:
        listed = endpoint_names(read_json(await self._transport.call(options.call(deadline, ENDPOINTS))))
        hint = not_found_hint(self.name, listed)
        if self.name in listed:
            if verb != "complete":
                await self._learn(options, deadline)  # it may have to be called in another place
        elif service := same_service(self.name, hint):
            try:
                await self._transport.call(options.call(deadline, f"{MODEL_SERVICES}/{quoted(service)}"))
            except APIError:
                return hint
            return f"There is a model service {service!r}: did you mean client.endpoint({service!r})? {hint}"
        return hint

    async def _service_hint(self, code: str, options: Options, deadline: float) -> str:
        """The hint for a model service that was not found, or a workspace that has none."""

        async def get(path: str) -> CallInfo:
            return await self._transport.call(options.call(deadline, path))

        listed = None
        if code != "FEATURE_DISABLED":
            query = {"parent": f"schemas/{self.name.rpartition('.')[0]}", "page_size": str(PAGE_SIZE)}
            try:
                listed = service_names(await read_pages(get, MODEL_SERVICES, query, "model_services"))
            except APIError:
                pass
        same = same_endpoint(self.name, endpoint_names(read_json(await get(ENDPOINTS))))
        if listed is None and code not in NO_GATEWAY:
            listed = []
        return service_hint(self.name, same, listed) if listed is not None else no_gateway_hint(self.name, same)
