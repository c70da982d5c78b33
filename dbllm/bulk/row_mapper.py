"""`RowMapper`: one row in, one result out. It can be pickled, so that it travels to the workers of any engine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from copy import copy
from hashlib import blake2b
from typing import Any

import anyio.to_thread

from dbllm import AsyncClient, AsyncDriverApp, AsyncEndpoint, Client, DriverApp, Endpoint, Limits, Retry, Timeout

from .._backends.backend import run_without_loop
from .._misnomers import explain_keywords
from .._protocol.requests import tags_header
from .failures import failed_result
from .requests import VERBS, RowRequest, Template, request_of
from .results import RowInputError, RowResult

RETRY = Retry(attempts=8, max_backoff=30.0, max_retry_after=600.0)
"""The policy of bulk: more patience than one call has. What may have been paid is not sent again."""

Handle = AsyncEndpoint | AsyncDriverApp | Endpoint | DriverApp


class RowMapper:
    """Calls a model for one row. `await mapper(row)` in async code, `mapper.call(row)` in plain code.

    It holds no connection and no credential: each process, and in it each event loop, makes its client when it first
    needs one, from the configuration that is found there (environment, profile, notebook). So it can be pickled, and
    given to Spark, Ray, Dask or Daft.

    Args:
        endpoint: the name of a serving endpoint or of a model service.
        driver_app: instead, the port of a driver proxy app.
        cluster_id: the app's cluster; default as for `AsyncClient.driver_app`.
        verb: "complete", "chat", "embed", "predict" or "respond"; default: what the endpoint speaks.
        prompt: a template with columns in braces: "Summarise: {text}". Without one a row is a prompt (str), or has
            `prompt`, `messages` or `input`, or OpenAI Batch's shape.
        params: the model's parameters, for all rows.
        response_model: as for `chat`; it needs the verb chat.
        tags: names and values for the workspace's usage tables, with every row's call; not for a driver app.
        retry: the policy; default `RETRY`: 8 attempts.
        timeout: seconds for one row, all attempts included, or a `Timeout`; default the client's.
        limits: the rates that this mapper's calls must keep, in each process.
        host, profile: as for `AsyncClient`.
        token: a function that returns a token, called before every attempt. A token itself is refused: it would be
            written into every pickle.
        handle: a handle of a client of yours, in place of `endpoint` and what configures the client. Such a mapper
            stays in this process.

    Raises:
        TypeError, ValueError, ConfigError: an argument cannot be used.
    """

    @explain_keywords
    def __init__(
        self,
        endpoint: str | None = None,
        *,
        driver_app: int | str | None = None,
        cluster_id: str | None = None,
        verb: str | None = None,
        prompt: str | None = None,
        params: Mapping[str, Any] | None = None,
        response_model: type | None = None,
        tags: Mapping[str, str] | None = None,
        retry: Retry | None = None,
        timeout: float | Timeout | None = None,
        limits: Limits | None = None,
        host: str | None = None,
        profile: str | None = None,
        token: Callable[[], Any] | None = None,
        handle: Handle | None = None,
    ) -> None:
        if sum(one is not None for one in (endpoint, driver_app, handle)) != 1:
            raise TypeError("RowMapper takes one of endpoint=, driver_app= and handle=.")
        if verb is not None and verb not in VERBS:
            raise ValueError(f"verb must be one of {', '.join(VERBS)}, got {verb!r}.")
        if token is not None and not callable(token):
            del token
            raise TypeError(
                "RowMapper takes no token, since it would be written into pickles: pass a function that returns one, a "
                "profile=, or set DATABRICKS_TOKEN where the rows are mapped."
            )
        if response_model is not None and verb not in (None, "chat"):
            raise ValueError(f"response_model needs verb='chat', got {verb!r}.")
        if tags is not None:
            tags_header(tags)  # raises for what is none
        if tags and (driver_app is not None or isinstance(handle, (AsyncDriverApp, DriverApp))):
            raise TypeError("a driver app takes no tags.")
        if timeout is not None and not isinstance(timeout, Timeout):
            Timeout(total=timeout)  # said now, not with the first row
        self.endpoint, self.driver_app, self.cluster_id = endpoint, driver_app, cluster_id
        self.verb = "chat" if response_model is not None else verb
        self.params, self.response_model, self.tags = dict(params or {}), response_model, dict(tags or {})
        self.retry, self.timeout, self.limits = retry or RETRY, timeout, limits
        self.template = None if prompt is None else Template(prompt)
        self._settings = {"host": host, "profile": profile, "token": token}
        self._handle = handle
        self._clients: dict[Any, Any] = {}
        self._verbs: tuple[str, ...] | None = None  # what the endpoint does

    @property
    def prompt(self) -> str | None:
        """The template."""
        return None if self.template is None else self.template.text

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the template names."""
        return () if self.template is None else self.template.columns

    def __repr__(self) -> str:
        where = self.endpoint or self.driver_app or self._handle
        return f"RowMapper({where!r}, verb={self.verb!r})"

    def __getstate__(self) -> dict[str, Any]:
        if self._handle is not None:
            raise TypeError("a RowMapper with a handle of your client cannot be pickled: pass endpoint= instead.")
        return {**vars(self), "_clients": {}}

    # --- one row ------------------------------------------------------------------------------------------------------

    async def __call__(self, row: Any, *, index: int = 0) -> RowResult:
        """The result of one row; a failure is an error row. Retries happen inside."""
        began = time.monotonic()
        try:
            handle = self.async_handle(self.limits)
            if self.verb is None:
                await self.start(self.limits)
            request = self.request(row)
            reply = await self.send(handle, request, retry=self.retry, timeout=self.timeout)
        except Exception as error:  # noqa: BLE001 - a row's failure is a value
            return failed_result([error], index, key_of(row), time.monotonic() - began)
        return self.result(request, reply, index, time.monotonic() - began)

    def call(self, row: Any, *, index: int = 0) -> RowResult:
        """As `await mapper(row)`, in plain code."""
        began = time.monotonic()
        try:
            handle = self.plain_handle(self.limits)
            if self._verbs is None and self.verb is None:
                self._verbs = run_without_loop(handle._core._lookup_verbs())
            request = self.request(row)
            reply = self.send(handle, request, retry=self.retry, timeout=self.timeout)
        except Exception as error:  # noqa: BLE001
            return failed_result([error], index, key_of(row), time.monotonic() - began)
        return self.result(request, reply, index, time.monotonic() - began)

    async def aclose(self) -> None:
        """Close the connections of the clients that this mapper made in this process."""
        for client in tuple(self._clients.values()):
            if isinstance(client, Client):
                client.close()
            else:
                await client.aclose()
        self._clients.clear()

    # --- its steps, for who sends many --------------------------------------------------------------------------------

    async def start(self, limits: Limits | None = None) -> None:
        """Learn what the endpoint speaks, so that one that does not exist fails before the first row is paid.

        Raises:
            ConfigError, APIError: the configuration is incomplete, or there is no such endpoint.
            TypeError: a driver app has no such verb.
        """
        if self._verbs is None:
            handle = self.async_handle(limits)
            if self.verb not in (None, "complete") and not hasattr(handle, str(self.verb)):
                raise TypeError(f"a driver app does not do {self.verb}(): use the verb complete.")
            if (core := getattr(handle, "_core", None)) is not None:  # of a sync client: it blocks
                self._verbs = await anyio.to_thread.run_sync(lambda: run_without_loop(core._lookup_verbs()))
            else:
                self._verbs = await handle._lookup_verbs()

    def look_up(self) -> str | None:
        """The endpoint's task, as Databricks calls it, or a word for what it speaks; None if nobody says. It blocks.

        Raises:
            ConfigError, APIError: the configuration is incomplete, or the endpoint cannot be looked up.
            TypeError: the mapper was given a handle of an AsyncClient.
        """
        mine = self if self._handle is not None else copy(self)  # whose clients are closed below, not those of `self`
        try:
            core = sending_once(mine.plain_handle(), self.timeout)._core
            self._verbs = run_without_loop(core._lookup_verbs())
            if core._ref.kind or core._ref.is_service:
                known = core._known.get(core.name)
                return str(core._ref.kind or known.kind) if core._ref.kind or known else None
            deadline = core._options.deadline(core._transport.backend.clock)
            call = core._options.call(deadline, core._ref.described_at)
            described = json.loads(run_without_loop(core._transport.call(call)).raw.body)
            return str(described.get("task") or "custom")  # backends leave the task of custom models out
        except (ValueError, AttributeError):
            return None  # no description
        finally:
            for client in mine._clients.values():
                client.close()

    def identity(self) -> dict[str, Any]:
        """What makes the answers other ones: whom the calls go to, and with what, as plain data.

        Raises:
            ConfigError: the configuration is incomplete.
        """
        core, model = _core_of(self.async_handle()), self.response_model
        signature = core._signature
        return {
            "host": core._transport.host,
            "endpoint": core.name,  # of a driver app its cluster and port
            "verb": self.verb,
            "prompt": self.prompt,
            "params": dict(self.params),
            "response_model": None
            if model is None
            else f"{model.__module__}.{model.__qualname__} {_schema_digest(model)}",
            "handle": {
                "params": dict(signature.params),
                "transform_input": _qualified_name(signature.transform_input),
                "transform_output": _qualified_name(signature.transform_output),
            },
        }

    def request(self, row: Any) -> RowRequest:
        """What a row asks for.

        Raises:
            RowInputError: it cannot be sent.
        """
        return request_of(row, self.verb or default_verb(row, self._verbs or (), self.template), self.template)

    def async_handle(self, limits: Limits | None = None) -> Any:
        """The handle that calls are made with in async code; the client behind it serves every event loop.

        Whoever keeps the limits itself, as the scheduler does, passes none.
        """
        return self._handle if self._handle is not None else self._made(AsyncClient, limits)

    def plain_handle(self, limits: Limits | None = None) -> Any:
        """The handle of plain code; `limits` as above.

        Raises:
            TypeError: the mapper was given a handle of an AsyncClient.
        """
        if self._handle is None:
            return self._made(Client, limits)
        if not hasattr(self._handle, "_core"):
            raise TypeError("mapper.call() needs a handle of a Client, this one is an AsyncClient's: await the mapper.")
        return self._handle

    def _made(self, kind: Any, limits: Limits | None) -> Any:
        client = self._client(kind, limits)
        if self.endpoint is not None:
            return client.endpoint(self.endpoint)
        return client.driver_app(self.driver_app, self.cluster_id)

    def _client(self, kind: Any, limits: Limits | None = None) -> Any:
        # One client for all event loops, threads and forked children of this process: it keeps their sockets apart.
        if (client := self._clients.get((kind, limits))) is None:
            client = self._clients.setdefault((kind, limits), kind(**self._settings, limits=limits))
        return client

    def send(self, handle: Any, request: RowRequest, **options: Any) -> Any:
        """Call the verb: a coroutine of an async handle, the reply of a plain one."""
        verb, content = request.verb, request.content
        if self.tags:
            options["tags"] = self.tags
        params = {**self.params, **request.params} if request.params else self.params
        if verb == "complete":
            return handle.generate(content, **options, **params)
        if verb == "predict":
            return handle.predict(**content, params=params, **options)
        if verb == "chat" and self.response_model is not None:
            options["response_model"] = self.response_model
        method = getattr(handle, verb, None)
        if method is None:
            raise RowInputError(f"a driver app does not do {verb}(): use the verb complete.")
        return method(content, **options, **params)

    def result(self, request: RowRequest, reply: Any, index: int, seconds: float) -> RowResult:
        """The result for a reply."""
        verb, usage = request.verb, getattr(reply, "usage", None)
        return RowResult(
            index,
            request.key,
            output_of(request, reply),
            parsed=reply.parsed if verb == "chat" else None,
            finish_reason=getattr(reply, "finish_reason", None),
            input_tokens=usage.prompt_tokens if usage else None,
            output_tokens=usage.completion_tokens if usage else None,
            model=getattr(reply, "model", None) or reply.served_model,
            request_id=reply.request_id,
            attempts=reply.attempts,
            latency=seconds,
        )


def _core_of(handle: Any) -> Any:
    """The handle itself, or the one that a sync handle wraps."""
    return getattr(handle, "_core", handle)


def _schema_digest(model: type) -> str:
    """A short name of the model's fields."""
    from pydantic import TypeAdapter

    schema = json.dumps(TypeAdapter(model).json_schema(), sort_keys=True)
    return blake2b(schema.encode(), digest_size=6).hexdigest()


def _qualified_name(function: Any) -> str | None:
    return None if function is None else f"{function.__module__}.{getattr(function, '__qualname__', '?')}"


def default_verb(row: Any, verbs: tuple[str, ...], template: Template | None) -> str:
    """The verb for a row where none was asked for: what the endpoint speaks, and of that what the row is made for."""
    if "embed" in verbs:
        return "embed"
    columns = row if isinstance(row, Mapping) else {}
    if isinstance(columns.get("body"), Mapping):
        columns = columns["body"]
    for_responses = template is None and "input" in columns and not columns.keys() & {"messages", "prompt"}
    if "respond" in verbs and ("chat" not in verbs or for_responses):  # chat models do it too, without max_tokens
        return "respond"
    if isinstance(row, str):
        return "complete"
    if template is None and "messages" in columns and (not verbs or "chat" in verbs):
        return "chat"
    if "predict" in verbs and template is None and columns and not isinstance(columns.get("prompt"), str):
        return "predict"
    return "complete"


def output_of(request: RowRequest, reply: Any) -> Any:
    """The answer itself: a text, vectors, a prediction; a message with calls of tools as a dict."""
    if request.verb == "embed":
        vectors = reply.vectors
        return vectors[0] if isinstance(request.content, str) else vectors
    if request.verb == "predict":
        records = request.content.get("dataframe_records")
        single = records is not None and len(records) == 1 and isinstance(reply.predictions, list)
        return reply.first if single and len(reply.predictions) == 1 else reply.predictions
    if request.verb == "chat" and reply.message.tool_calls:
        return reply.message.as_wire()
    return reply.text


def sending_once(handle: Any, timeout: float | Timeout | None) -> Any:
    """The same handle, whose calls are made once. As an option of each call it would be worked out for each."""
    other = copy(handle)
    if hasattr(handle, "_core"):
        other._core = sending_once(handle._core, timeout)
    elif hasattr(handle, "_options"):
        other._options = handle._options.merged_with(timeout, Retry(attempts=1))
    return other


def key_of(row: Any) -> str | None:
    """A row's own name."""
    key = row.get("custom_id") if isinstance(row, Mapping) else None
    return None if key is None else str(key)
