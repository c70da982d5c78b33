"""`Databricks`: any endpoint or driver app that turns a prompt into a text, as a LangChain LLM."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.llms import LLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import Runnable
from pydantic import Field, field_validator, model_validator

from .concurrency import gather, in_threads
from .errors import as_langchains
from .workspace import Config, WorkspaceModel, bounded, profile_of

PORTS = range(3000, 8001)
"""The ports of a driver node that Databricks forwards."""

# Tasks whose endpoints take sampling parameters, so that the defaults are sent to them too.
_SAMPLING_TASKS = ("llm/v1/chat", "llm/v1/completions", "llama2/chat", "chat", "completions")


class Databricks(WorkspaceModel, LLM):
    """A serving endpoint or a cluster driver proxy app as a LangChain LLM: a prompt in, a text out.

        llm = Databricks(endpoint_name="dolly")
        llm("How are you?", stop=["."])

    It works on custom models, completions and chat endpoints. Beside the fields by which it finds the workspace (see
    `WorkspaceModel`):

    Attributes:
        endpoint_name: the serving endpoint; or
        cluster_driver_port: the driver app's port, 3000 to 8000, and
        cluster_id: its cluster; default: the one of the notebook this runs in, or DATABRICKS_CLUSTER_ID.
        extra_params, model_kwargs: further parameters of the model, for every call.
        temperature, max_tokens, n, stop: sent where they are set. `n` asks `n` times, and `generate` returns them all.
        task: what the endpoint speaks ("llm/v1/chat" …), so that it need not be looked up.
        transform_input_fn: called with the request as keywords; returns the request.
        transform_output_fn: called with the answer; returns the text. Both may also be the hexadecimal text of a
            pickle, which is loaded with `allow_dangerous_deserialization=True` only.
        databricks_uri: "databricks", or "databricks://profile".
        rate_limiter: asked before every call.

    Raises (when called):
        dbllm.DbllmError: the call failed; see the tree in `dbllm.errors`.
    """

    endpoint_name: str | None = None
    cluster_id: str | None = None
    cluster_driver_port: str | None = None
    model_kwargs: dict[str, Any] | None = None
    extra_params: dict[str, Any] = Field(default_factory=dict)
    transform_input_fn: Callable[..., Any] | None = None
    transform_output_fn: Callable[..., str] | None = None
    databricks_uri: str = "databricks"
    temperature: float = 0.0
    n: int = Field(default=1, ge=1)
    stop: list[str] | None = None
    max_tokens: int | None = None
    task: str | None = None
    allow_dangerous_deserialization: bool = False
    rate_limiter: BaseRateLimiter | None = Field(default=None, exclude=True)

    # --- what is refused before anything is sent ----------------------------------------------------------------------

    @model_validator(mode="before")
    @classmethod
    def _load_functions(cls, values: Any) -> Any:
        for name in ("transform_input_fn", "transform_output_fn"):
            if isinstance(values, dict) and isinstance(values.get(name), str):
                allowed = bool(values.get("allow_dangerous_deserialization"))
                values = {**values, name: _function(values[name], name, allowed)}
        return values

    @field_validator("cluster_driver_port", mode="before")
    @classmethod
    def _check_port(cls, port: Any) -> str | None:
        if port is None:
            return None
        text = str(port)
        if isinstance(port, bool) or not (text.isascii() and text.isdigit() and int(text) in PORTS):
            raise ValueError(f"Invalid cluster_driver_port {port!r}: a driver app listens on a port from 3000 to 8000.")
        return text

    @model_validator(mode="after")
    def _check_place(self) -> Databricks:
        if self.endpoint_name is not None and (self.cluster_id or self.cluster_driver_port):
            raise ValueError("Set endpoint_name, or cluster_id and cluster_driver_port: a model is in one place.")
        if not self.endpoint_name and not self.cluster_driver_port:
            named = (
                "Must set cluster_driver_port to connect to a cluster driver"
                if self.cluster_id
                else "Set endpoint_name"
            )
            raise ValueError(
                f"{named}{'.' if self.cluster_id else ', or cluster_driver_port for an app on a cluster.'}"
            )
        if self.model_kwargs and self.extra_params:
            raise ValueError("model_kwargs and extra_params are the same thing: set one of them.")
        for name in ("prompt", "stop"):
            if name in self._extra():
                raise ValueError(f"model_kwargs must not contain {name!r}: it is an argument of the call.")
        profile_of(self.databricks_uri, "databricks_uri")
        return self

    def _profile(self) -> str | None:
        return self.config_profile or profile_of(self.databricks_uri, "databricks_uri")

    def _extra(self) -> dict[str, Any]:
        return {**self.extra_params, **(self.model_kwargs or {})}

    # --- what LangChain shows -----------------------------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "databricks"

    @property
    def _default_params(self) -> dict[str, Any]:
        """The settings without credentials; functions by their names."""
        names = (
            "host", "endpoint_name", "cluster_id", "cluster_driver_port", "databricks_uri", "model_kwargs",
            "temperature", "n", "stop", "max_tokens", "extra_params", "task",
        )  # fmt: skip
        shown = {name: getattr(self, name) for name in names}
        shown |= {name: value for name, value in self._workspace().items() if value is not None}
        functions = {"transform_input_fn": self.transform_input_fn, "transform_output_fn": self.transform_output_fn}
        shown.update({name: _called(function) for name, function in functions.items() if function is not None})
        return shown

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return self._default_params

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_model_name"] = self._name()
        return params

    def _name(self) -> str:
        return self.endpoint_name or f"{self.cluster_id or 'cluster'}:{self.cluster_driver_port}"

    # --- calls --------------------------------------------------------------------------------------------------------

    def __call__(
        self,
        prompt: str,
        stop: list[str] | None = None,
        callbacks: Any = None,
        *,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> str:
        """The text for one prompt; `invoke` does the same.

        Raises:
            ValueError: the prompt is no str.
        """
        if not isinstance(prompt, str):
            raise ValueError(
                f"A prompt is a str, not {type(prompt).__name__}; for several there are batch and generate."
            )
        return self.invoke(
            prompt, {"callbacks": callbacks, "tags": tags or [], "metadata": metadata or {}}, stop=stop, **kwargs
        )

    def _call(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> str:
        if self.rate_limiter is not None:
            self.rate_limiter.acquire(blocking=True)
        with as_langchains:
            text: str = self._place(self._sync()).complete(prompt, **self._request(stop, kwargs))
            return text

    async def _acall(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> str:
        if self.rate_limiter is not None:
            await self.rate_limiter.aacquire(blocking=True)
        with as_langchains:
            text: str = await self._place(self._async()).complete(prompt, **self._request(stop, kwargs))
            return text

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        count = kwargs.pop("n", None) or self.n
        asked = [prompt for prompt in prompts for _ in range(count)]
        texts = in_threads(lambda prompt: self._call(prompt, stop, run_manager, **kwargs), asked, self.max_concurrency)
        return self._result(texts, count)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        count = kwargs.pop("n", None) or self.n
        asked = [prompt for prompt in prompts for _ in range(count)]
        texts = await gather(
            lambda prompt: self._acall(prompt, stop, run_manager, **kwargs), asked, self.max_concurrency
        )
        return self._result(texts, count)

    def _result(self, texts: list[str], count: int) -> LLMResult:
        generations = [Generation(text=text) for text in texts]
        groups = [generations[first : first + count] for first in range(0, len(generations), count)]
        return LLMResult(generations=list(groups), llm_output={"model_name": self._name()})

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        if self.transform_output_fn is not None:  # it wants the whole answer
            yield GenerationChunk(text=self._call(prompt, stop, run_manager, **kwargs))
            return
        if self.rate_limiter is not None:
            self.rate_limiter.acquire(blocking=True)
        came = False
        with as_langchains, self._place(self._sync()).stream_complete(prompt, **self._request(stop, kwargs)) as stream:
            for piece in stream:
                if piece.text:
                    came = True
                    chunk = GenerationChunk(text=piece.text)
                    if run_manager is not None:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        if not came:
            yield GenerationChunk(text="")

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        if self.transform_output_fn is not None:
            yield GenerationChunk(text=await self._acall(prompt, stop, run_manager, **kwargs))
            return
        if self.rate_limiter is not None:
            await self.rate_limiter.aacquire(blocking=True)
        came = False
        with as_langchains:
            async with self._place(self._async()).stream_complete(prompt, **self._request(stop, kwargs)) as stream:
                async for piece in stream:
                    if piece.text:
                        came = True
                        chunk = GenerationChunk(text=piece.text)
                        if run_manager is not None:
                            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
        if not came:
            yield GenerationChunk(text="")

    # --- batches ------------------------------------------------------------------------------------------------------

    def batch(
        self, inputs: list[LanguageModelInput], config: Config = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[str]:
        """The answers in the order of the inputs; with `return_exceptions`, an error in the place of its input only."""
        config = bounded(config, self.max_concurrency)
        return Runnable.batch(self, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self, inputs: list[LanguageModelInput], config: Config = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[str]:
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

    # --- what is sent -------------------------------------------------------------------------------------

    def _place(self, client: Any) -> Any:
        """The endpoint or the driver app, of either client."""
        transforms = {"transform_input": self.transform_input_fn, "transform_output": self.transform_output_fn}
        if self.endpoint_name is None:
            return client.driver_app(self.cluster_driver_port, self.cluster_id, **transforms)
        task = "custom" if self.task == "llama2/chat" else self.task
        return client.endpoint(self.endpoint_name, task=task, **transforms)

    def _request(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of a call. Defaults go only where they are known to be understood: a custom model's signature
        may have no temperature."""
        defaults = self.endpoint_name is not None and self.task in _SAMPLING_TASKS
        names = [name for name in ("temperature", "max_tokens") if defaults or name in self.model_fields_set]
        params = {**{name: getattr(self, name) for name in names}, **self._extra(), **kwargs}
        params.pop("n", None)  # asked for one by one
        return {**params, "stop": self.stop if stop is None else stop}


def _called(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"


def _function(text: str, name: str, allowed: bool) -> Any:
    """The function in a pickle's hexadecimal text, as langchain-community's class saved it.

    Raises:
        ValueError: it was not allowed, or is none.
    """
    if not allowed:
        raise ValueError(
            f"{name} is a text, which would be unpickled: that runs whatever code is in it. Pass the function itself, "
            "or allow_dangerous_deserialization=True if you trust where the text comes from."
        )
    import pickle

    try:
        function = pickle.loads(bytes.fromhex(text))
    except Exception as error:
        raise ValueError(f"{name} is not the hexadecimal text of a pickled function: {error}") from error
    if not callable(function):
        raise ValueError(f"{name} is a pickled {type(function).__name__}, not a function.")
    return function
