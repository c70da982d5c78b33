"""`ChatDatabricks`: chat endpoints as a LangChain chat model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from inspect import signature
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableMap, RunnablePassthrough
from pydantic import AliasChoices, BaseModel, Field, model_validator

from . import responses, structured
from . import tools as tool_fields
from .errors import as_langchains
from .messages import chat_result, wire_messages
from .pieces import Pieces
from .profiles import profile_for
from .tools import Method, Tool, ToolChoice
from .workspace import Config, WorkspaceModel, bounded, profile_of

if TYPE_CHECKING:
    from dbllm import BadRequestError

Asked = TypeVar("Asked", bound=Callable[..., Any])

# Keywords of LangChain's own that reach a model's methods; they are not the endpoint's. Nor is what begins with "ls_".
_NOT_SENT = frozenset({"stream", "stream_usage", "structured_output_format", "output_version", "run_manager"})
# One thing under the names that it has had; what is said later replaces it under whatever name.
_TOKEN_LIMITS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})


def _signed(method: Asked) -> Asked:
    """The method with its signature at hand: langchain-core asks for it at every call, and to find it costs 3 % of one.

    `inspect.signature` takes it from there; where a Python did not, it would find the same by itself.
    """
    vars(method)["__signature__"] = signature(method)
    return method


class ChatDatabricks(WorkspaceModel, BaseChatModel):
    """A chat endpoint (`llm/v1/chat`: foundation and external models, agents) as a LangChain chat model.

        chat = ChatDatabricks(model="databricks-claude-sonnet-4")
        await chat.ainvoke("hello")

    Beside the fields by which it finds the workspace (see `WorkspaceModel`):

    Attributes:
        model: the endpoint's name, or a model service's (`system.ai.claude-sonnet-4-5`); also taken as `endpoint`.
        temperature, max_tokens, max_completion_tokens, n, stop: sent where they are set (`n` where it is not 1).
            `max_completion_tokens` is the name that reasoning models take; set one of the two.
        extra_params: further parameters of the model, for every call; also taken as `model_kwargs`.
        stream_usage: ask for token counts in streams. They come once, with the last chunk.
        streaming: make `invoke` stream underneath.
        use_responses_api: call with the Responses API: agents (`agent/v1/responses`), and models that have it.
        use_ai_gateway: call `model` through the AI Gateway, whatever its name; names with two dots (model services)
            are called so in any case.
        use_ai_gateway_native_api: as `use_ai_gateway`, with OpenAI's own fields, for OpenAI's models.
        target_uri: "databricks", or "databricks://profile".

    `profile` (what the model can do) is that of the model's name, where it is known and none is given; `load_profile`
    asks the workspace what the endpoint serves.

    Calls take `custom_inputs`, and agents' answers have `custom_outputs`. The `response_metadata` of an answer has
    `id` (the server's), `model_name` (the endpoint), `model` (the model behind it), `usage`, `finish_reason`,
    `normalized_finish_reason`, `request_id`, and what else the server told.

    Raises (when called):
        dbllm.DbllmError: the call failed; see the tree in `dbllm.errors`. It is an error of langchain-core as well
            (`ModelRateLimitError` …), where that has them.
        ValueError: a message or content block that a chat endpoint does not take.
    """

    model: str = Field(validation_alias=AliasChoices("model", "endpoint"))
    target_uri: str | None = None
    temperature: float | None = None
    n: int = Field(default=1, ge=1)
    stop: list[str] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    extra_params: dict[str, Any] | None = Field(
        default=None, validation_alias=AliasChoices("extra_params", "model_kwargs")
    )
    stream_usage: bool = True
    streaming: bool = False
    use_responses_api: bool = False
    use_ai_gateway: bool = False
    use_ai_gateway_native_api: bool = False

    @model_validator(mode="after")
    def _check_places(self) -> ChatDatabricks:
        profile_of(self.target_uri, "target_uri")
        if self.target_uri is not None and self.workspace_client is not None:
            raise ValueError("Cannot specify both 'workspace_client' and 'target_uri': leave target_uri out.")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are the same thing: set one of them.")
        if self.use_ai_gateway and self.use_ai_gateway_native_api:
            raise ValueError("use_ai_gateway and use_ai_gateway_native_api are two interfaces: set one of them.")
        return self

    @property
    def _gateway(self) -> Literal["mlflow", "openai"] | None:
        return "openai" if self.use_ai_gateway_native_api else "mlflow" if self.use_ai_gateway else None

    def _resolve_model_profile(self) -> Any:
        return profile_for(self.model)

    def load_profile(self) -> Any:
        """The profile of the model that the endpoint serves, by the workspace's description of it; kept in `profile`.

        Raises:
            dbllm.DbllmError: there is no such endpoint, or it may not be looked up.
        """
        with as_langchains:
            client = self._sync()
            described = client.model_services if self.model.count(".") > 1 else client.endpoints
            found: Any = profile_for(self.model, described.get(self.model))
        self.profile = found or self.profile
        return self.profile

    async def aload_profile(self) -> Any:
        """As `load_profile`."""
        with as_langchains:
            client = self._async()
            described = client.model_services if self.model.count(".") > 1 else client.endpoints
            found: Any = profile_for(self.model, await described.get(self.model))
        self.profile = found or self.profile
        return self.profile

    def _profile(self) -> str | None:
        return self.config_profile or profile_of(self.target_uri, "target_uri")

    @property
    def endpoint(self) -> str:
        """The endpoint's name, under its older name."""
        return self.model

    @endpoint.setter
    def endpoint(self, name: str) -> None:
        self.model = name

    @property
    def _llm_type(self) -> str:
        return "chat-databricks"

    @property
    def _default_params(self) -> dict[str, Any]:
        params = {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "max_completion_tokens": self.max_completion_tokens,
            "n": self.n if self.n != 1 else None,
        }
        given = {name: value for name, value in params.items() if value is not None}
        return _over(given, self.extra_params or {})

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        # Caches go by this: another workspace, or another wire, is another model.
        about = {"model": self.model, **self._workspace(), "use_responses_api": self.use_responses_api}
        about |= {"gateway": self._gateway} if self._gateway else {}
        return {**about, "stop": self.stop, **self._default_params}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        params = super()._get_ls_params(stop=stop, **kwargs)
        limit = kwargs.get("max_completion_tokens") or (None if self.max_tokens else self.max_completion_tokens)
        if limit and "max_tokens" not in kwargs:
            params["ls_max_tokens"] = limit
        return params

    # --- calls --------------------------------------------------------------------------------------------------------

    def __call__(
        self, messages: Sequence[BaseMessage], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> AIMessage:
        """The answer to a list of messages; `invoke` does the same and takes a prompt too."""
        return self.invoke(list(messages), {"callbacks": callbacks}, stop=stop, **kwargs)

    @_signed
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with as_langchains:
            name, body, params = self._request(messages, stop, kwargs)
            endpoint = self._sync().endpoint(name, gateway=self._gateway)
            if self.use_responses_api:
                return responses.result(endpoint.respond(body, **params), name)
            return chat_result(endpoint.chat(body, **params), name)

    @_signed
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with as_langchains:
            name, body, params = self._request(messages, stop, kwargs)
            endpoint = self._async().endpoint(name, gateway=self._gateway)
            if self.use_responses_api:
                return responses.result(await endpoint.respond(body, **params), name)
            return chat_result(await endpoint.chat(body, **params), name)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        from dbllm import BadRequestError

        with as_langchains:
            name, body, params = self._request(messages, stop, kwargs, stream=True)
            endpoint = self._sync().endpoint(name, gateway=self._gateway)
            if self.use_responses_api:
                events = responses.Events(name)
                with endpoint.stream_respond(body, **params) as answer:
                    for event in answer:
                        if (chunk := events.chunk(event)) is not None:
                            yield chunk
                    yield events.last(answer.request_id, answer.final())
                return
            pieces = Pieces(name)
            stream = endpoint.stream_chat(body, **params)
            try:
                stream.__enter__()
            except BadRequestError as error:
                stream = endpoint.stream_chat(body, **self._without_usage(name, params, error))
            with stream:
                for piece in stream:
                    if (chunk := pieces.chunk(piece)) is not None:
                        yield chunk
                yield pieces.last(stream.request_id, stream.final() if pieces.needs_whole else None)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        from dbllm import BadRequestError

        with as_langchains:
            name, body, params = self._request(messages, stop, kwargs, stream=True)
            endpoint = self._async().endpoint(name, gateway=self._gateway)
            if self.use_responses_api:
                events = responses.Events(name)
                async with endpoint.stream_respond(body, **params) as answer:
                    async for event in answer:
                        if (chunk := events.chunk(event)) is not None:
                            yield chunk
                    yield events.last(answer.request_id, await answer.final())
                return
            pieces = Pieces(name)
            stream = endpoint.stream_chat(body, **params)
            try:
                await stream.__aenter__()
            except BadRequestError as error:
                stream = endpoint.stream_chat(body, **self._without_usage(name, params, error))
            async with stream:
                async for piece in stream:
                    if (chunk := pieces.chunk(piece)) is not None:
                        yield chunk
                yield pieces.last(stream.request_id, await stream.final() if pieces.needs_whole else None)

    def _request(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any], *, stream: bool = False
    ) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
        """(endpoint, messages, keywords) of a call: the object's settings, and what the call says instead."""
        own = {key: value for key, value in kwargs.items() if key not in _NOT_SENT and not key.startswith("ls_")}
        params = _over(self._default_params, own)
        name = params.pop("model", None) or self.model
        stop = self.stop if stop is None else stop
        if self.use_responses_api:
            return name, responses.wire_items(messages), responses.wire_params(params, stop)
        if stream:
            if (params.get("n") or 1) > 1:
                raise ValueError(f"A stream is one answer, so n={params['n']} would lose the others: use generate().")
            asked = kwargs.get("stream_usage")
            if (self.stream_usage if asked is None else asked) and name not in self._made.no_stream_options:
                params.setdefault("stream_options", {"include_usage": True})
        if (custom := params.pop("custom_inputs", None)) is not None:
            params["extra_body"] = {**(params.get("extra_body") or {}), "custom_inputs": custom}
        return name, wire_messages(messages, name), {**params, "stop": stop}

    def _without_usage(self, name: str, params: dict[str, Any], error: BadRequestError) -> dict[str, Any]:
        """The same call for an endpoint that does not know `stream_options`; it is not asked again."""
        if "stream_options" not in params or "stream_options" not in str(error):
            raise error
        self._made.no_stream_options.add(name)
        return {key: value for key, value in params.items() if key != "stream_options"}

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
        """What several answers tell as one: their tokens are added up."""
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        first, *others = [output for output in llm_outputs if output] or [{}]
        combined = dict(first)
        for output in others:
            for key, value in output.items():
                both = key in counts and isinstance(value, int) and isinstance(combined.get(key), int)
                combined[key] = combined[key] + value if both else value
        if "usage" in combined:
            combined["usage"] = {key: combined[key] for key in counts if key in combined}
        return {key: value for key, value in combined.items() if key not in ("request_id", "id")}

    # --- batches ------------------------------------------------------------------------------------------------------

    def batch(
        self, inputs: list[LanguageModelInput], config: Config = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[AIMessage]:
        """The answers in the order of the inputs; with `return_exceptions`, an error in the place of its input only."""
        config = bounded(config, self.max_concurrency)
        return Runnable.batch(self, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self, inputs: list[LanguageModelInput], config: Config = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[AIMessage]:
        """As `batch`."""
        config = bounded(config, self.max_concurrency)
        return await Runnable.abatch(self, inputs, config, return_exceptions=return_exceptions, **kwargs)

    def batch_as_completed(
        self, inputs: Sequence[Any], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> Iterator[Any]:
        """As `batch`: (place of the input, its answer) for each, as soon as it is there."""
        config = bounded(config, self.max_concurrency)
        return Runnable.batch_as_completed(self, inputs, config, return_exceptions=return_exceptions, **kwargs)  # type: ignore[call-overload,no-any-return]

    def abatch_as_completed(
        self, inputs: Sequence[Any], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """As `batch_as_completed`."""
        config = bounded(config, self.max_concurrency)
        return Runnable.abatch_as_completed(self, inputs, config, return_exceptions=return_exceptions, **kwargs)  # type: ignore[call-overload,no-any-return]

    # --- tools and structured output ----------------------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[Tool],
        *,
        tool_choice: ToolChoice = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools that it may ask to be called.

        Args:
            tools: functions, pydantic or TypedDict classes, LangChain tools, JSON schemas or dicts in OpenAI's form.
            tool_choice: "auto", "none", "any" or "required" or True (some tool), a tool's name, or a dict.
            strict: have the arguments follow the schema exactly (not every model knows it).
            parallel_tool_calls: whether one answer may have several calls.
            **kwargs: further parameters of the calls.

        Raises:
            ValueError: `tool_choice` names no tool of these.
        """
        formatted = tool_fields.wire_tools(tools, strict)
        choice = tool_fields.wire_tool_choice(tool_choice, formatted)
        said = {"tool_choice": choice, "parallel_tool_calls": parallel_tool_calls}
        given = {name: value for name, value in said.items() if value is not None}
        return cast("Runnable[LanguageModelInput, AIMessage]", self.bind(tools=formatted, **given, **kwargs))

    def bind(self, **kwargs: Any) -> Any:
        """This model with parameters for each of its calls."""
        return _Bound(bound=self, kwargs=kwargs, config={})

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "function_calling",
        include_raw: bool = False,
        strict: bool | None = None,
        tools: Sequence[Tool] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """This model with answers in the form of a schema.

        Args:
            schema: a pydantic class (answers are its instances), a TypedDict, a JSON schema, a tool's schema or
                `response_format` in OpenAI's form (answers are dicts).
            method: "function_calling" (one tool that must be called), "json_schema" (`response_format` with the
                schema) or "json_mode" (any JSON object; the prompt has to say which).
            include_raw: answer with {"raw", "parsed", "parsing_error"} instead of raising what does not fit.
            strict: have the answer follow the schema exactly; "json_schema" does so unless this is False, or the schema
                has objects with any keys (`dict[str, int]`), which no strict schema can say.
            tools: tools that the model may call instead; then the answer is None.
            **kwargs: further parameters of the calls.

        Raises:
            ValueError: no schema where the method needs one, an unknown method, or a schema that cannot be strict.
            APIResponseError: (when called) the answer was cut at the limit of tokens, or the model refused; the latter
                is a `ModelRefusalError` of langchain-core too.
            OutputParserException, ValidationError: (when called) the answer does not fit the schema.
        """
        sent, parser = structured.binding(schema, method, strict, tools)
        llm = cast("Runnable[LanguageModelInput, AIMessage]", self.bind(**{**kwargs, **sent}))
        if not include_raw:
            structured_model: Runnable[LanguageModelInput, Any] = llm | parser
            return structured_model
        parsed: Any = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        failed: Any = RunnablePassthrough.assign(parsed=lambda _: None)
        whole: Runnable[LanguageModelInput, Any] = RunnableMap(raw=llm) | parsed.with_fallbacks(
            [failed], exception_key="parsing_error"
        )
        return whole


class _Bound(RunnableBinding[LanguageModelInput, AIMessage]):
    """A chat model with parameters, which structured output keeps: the tools of `bind_tools` among them."""

    @classmethod
    def lc_id(cls) -> list[str]:
        return RunnableBinding.lc_id()

    def with_structured_output(self, schema: dict[str, Any] | type | None = None, **kwargs: Any) -> Any:
        """As the model's own, with the parameters that were bound."""
        bound = {name: value for name, value in self.kwargs.items() if name != "tool_choice"}
        return cast("Any", self.bound).with_structured_output(schema, **{**bound, **kwargs})


def _over(params: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters, and what is said later instead; the limit of tokens is one thing under each of its names."""
    if not _TOKEN_LIMITS.isdisjoint(later):
        params = {name: value for name, value in params.items() if name not in _TOKEN_LIMITS}
    return {**params, **later}
