"""Which workspace a LangChain object calls, and with which of dbllm's clients.

The object itself is a description: it makes its clients at the first call, so that constructing, copying and pickling
it involve no connection. Credentials never leave it in a repr, a dump, a trace or a pickle.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)

if TYPE_CHECKING:
    from dbllm import AsyncClient, Client

Config = RunnableConfig | list[RunnableConfig] | None
Token = SecretStr | Callable[[], "str | Awaitable[str]"]

_TOKENS = ("api_token", "api_key", "token")
# What is not pickled: credentials, and what holds some.
_CREDENTIALS = ("api_token", "client", "async_client", "workspace_client")
# What copies of an object share with it: they hold connections or locks.
_SHARED = ("client", "async_client", "workspace_client", "rate_limiter", "cache", "callbacks")


def get_repl_context() -> Any:
    """The context of the Databricks notebook this runs in.

    Raises:
        ImportError: this is no Databricks notebook.
    """
    try:
        return import_module("dbruntime.databricks_repl_context").get_context()
    except ImportError:
        raise ImportError("There is no notebook context: this does not run in a Databricks notebook.") from None


def _context(name: str) -> str | None:
    try:
        return getattr(get_repl_context(), name, None) or None
    except ImportError:
        return None


def get_default_host() -> str | None:
    """The workspace of the environment (DATABRICKS_HOST), else that of the notebook this runs in, else None."""
    return os.environ.get("DATABRICKS_HOST") or _context("browserHostName")


def get_default_api_token() -> str | None:
    """The token of the environment (DATABRICKS_TOKEN), else that of the notebook this runs in, else None."""
    return os.environ.get("DATABRICKS_TOKEN") or _context("apiToken")


class Made:
    """What an object has made for its calls: clients by the settings they belong to, and what was learned of endpoints.

    It is no part of the object's value: copies and pickles have none of it, and comparing ignores it.
    """

    def __init__(self) -> None:
        self.clients: dict[tuple[Any, ...], Any] = {}
        self.no_stream_options: set[str] = set()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Made)

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Made:
        return Made()

    def __reduce__(self) -> tuple[type[Made], tuple[()]]:
        return Made, ()


class WorkspaceModel(BaseModel):
    """The fields by which a LangChain object finds its workspace.

    Attributes:
        host: the workspace; default: DATABRICKS_HOST, the notebook's, or the profile's.
        api_token: a token, or a function (sync or async) that returns one; also taken as `api_key` or `token`. Default:
            whatever dbllm's clients find (environment, profile, OAuth, notebook).
        config_profile: a profile of ~/.databrickscfg. (`profile` is LangChain's own field, for a model's abilities.)
        timeout: seconds for a whole call, or a `dbllm.Timeout`.
        max_retries: how often a failed call is tried again; default: dbllm's policy.
        max_concurrency: how many calls a batch makes side by side, where the config of the call does not say.
        client, async_client: clients of yours to call with, to share their connections or for any setting that has no
            field here (proxy, TLS, transport). They are not closed.
        workspace_client: a `databricks.sdk.WorkspaceClient` whose host and credentials to use.
    """

    model_config = ConfigDict(
        populate_by_name=True, arbitrary_types_allowed=True, protected_namespaces=(), hide_input_in_errors=True
    )

    host: str | None = None
    api_token: Token | None = Field(default=None, validation_alias=AliasChoices(*_TOKENS), exclude=True, repr=False)
    config_profile: str | None = None
    timeout: Any = None
    max_retries: int | None = Field(default=None, ge=0)
    max_concurrency: int = Field(default=32, ge=1)
    # Typed Any: importing dbllm's clients is left to the first call.
    client: Any = Field(default=None, exclude=True, repr=False)
    async_client: Any = Field(default=None, exclude=True, repr=False)
    workspace_client: Any = Field(default=None, exclude=True, repr=False)

    _made: Made = PrivateAttr(default_factory=Made)
    _left_behind: str = PrivateAttr(default="")

    def __init__(self, *given: Any, **values: Any) -> None:
        for name in _TOKENS:  # from here on no traceback with locals shows it
            if isinstance(values.get(name), str):
                values[name] = SecretStr(values[name])
        super().__init__(*given, **values)

    @model_validator(mode="before")
    @classmethod
    def _no_typing_errors(cls, values: Any) -> Any:
        """An argument without a field is refused, with the field it was probably meant for."""
        if not isinstance(values, dict):
            return values
        known: set[str] = set()
        for name, field in cls.model_fields.items():
            choices = getattr(field.validation_alias, "choices", [field.validation_alias])
            known |= {name, *(str(choice) for choice in choices if choice), *([field.alias] if field.alias else [])}
        for name in values:
            if name not in known:
                raise ValueError(f"{cls.__name__} has no field {name!r}.{_instead(name, known)}")
        return values

    @field_validator("client", "async_client")
    @classmethod
    def _is_a_client(cls, value: Any, info: Any) -> Any:
        kind = {"client": "Client", "async_client": "AsyncClient"}[info.field_name]
        if value is not None and type(value).__name__ != kind:
            raise ValueError(f"{info.field_name} takes a dbllm.{kind}, not {type(value).__name__}.")
        return value

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self._show_what_is_found()

    def _show_what_is_found(self) -> None:
        """Host and token of the environment or the notebook, as the object's own where none were given.

        They are for reading: dbllm's clients find them again, by their rules, and where a profile or a client was given
        they do not apply. A token is shown only beside the host it belongs to.
        """
        given = self.model_fields_set
        if self._profile() or self.client or self.async_client or self.workspace_client:
            return
        host, token = get_default_host(), get_default_api_token()
        if "host" not in given:
            object.__setattr__(self, "host", host)  # past pydantic, for which it stays a field that was not set
        if "api_token" not in given and token is not None and host in (None, self.host):
            object.__setattr__(self, "api_token", SecretStr(token))

    def _workspace(self) -> dict[str, Any]:
        """Which workspace is called: its host where that is known, and the profile."""
        own = self.client or self.async_client
        host = own.host if own is not None else self.host
        if own is None and self.workspace_client is not None:
            host = self.workspace_client.config.host
        return {"host": host, "profile": self._profile()}

    # --- clients ------------------------------------------------------------------------------------------------------

    def _sync(self) -> Client:
        """The client for plain calls."""
        return self._client("client")  # type: ignore[no-any-return]

    def _async(self) -> AsyncClient:
        """The client for awaited calls. One serves all event loops: it keeps connections for each."""
        return self._client("async_client")  # type: ignore[no-any-return]

    def _client(self, field: str) -> Any:
        given = self.model_fields_set
        host = self.host if "host" in given else None
        token = self.api_token if "api_token" in given else None
        own = getattr(self, field)
        # A field that is set anew later is heeded: the client belongs to these values. (Functions and the SDK's client
        # may have no hash; the client holds them, so that their ids stay theirs.)
        who = token if isinstance(token, SecretStr) else id(token)
        key = (field, own, host, who, self._profile(), self.timeout, self.max_retries, id(self.workspace_client))
        clients = self._made.clients
        if key not in clients:  # two threads may make one each; the second is dropped before it has connected
            clients.setdefault(key, self._new_client(own, host, token, is_async=field == "async_client"))
        return clients[key]

    def _new_client(self, own: Any, host: str | None, token: Token | None, *, is_async: bool) -> Any:
        from dbllm import AsyncClient, Client, ConfigError, Retry

        kind: Callable[..., Any] = AsyncClient if is_async else Client

        retry = None if self.max_retries is None else Retry(attempts=self.max_retries + 1)
        if own is not None:
            return (
                own if retry is None and self.timeout is None else own.with_options(timeout=self.timeout, retry=retry)
            )
        if self.workspace_client is not None:
            host, token = self.workspace_client.config.host, _sdk_token(self.workspace_client)
        try:
            return kind(host, _revealed(token, is_async), profile=self._profile(), timeout=self.timeout, retry=retry)
        except ConfigError as error:
            if self._left_behind:
                raise ConfigError(f"{error} {self._left_behind}") from None
            raise

    def _profile(self) -> str | None:
        """The profile to use; classes with a `databricks_uri` or `target_uri` name it there too."""
        return self.config_profile

    def close(self) -> None:
        """Close the connections of plain calls; a later call opens new ones."""
        self._forget("client", lambda client: client.close())

    async def aclose(self) -> None:
        """Close all connections this object has opened; a later call opens new ones."""
        for client in self._forget("async_client", lambda client: client):
            await client.aclose()
        self.close()

    def _forget(self, field: str, end: Callable[[Any], Any]) -> list[Any]:
        mine = [key for key in self._made.clients if key[0] == field]
        return [end(client) for key in mine if (client := self._made.clients.pop(key)) is not key[1]]

    # --- copies and pickles -------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        """A copy keeps the credentials, shares what was given to it, and makes connections of its own."""
        memo = {} if memo is None else memo
        for name in _SHARED:
            memo[id(getattr(self, name, None))] = getattr(self, name, None)
        memo[id(self.api_token)] = self.api_token
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        """Everything but credentials: where this is loaded, those that are configured there serve."""
        state = super().__getstate__()
        explicit = set(state["__pydantic_fields_set__"])
        lost = [name for name in _CREDENTIALS if name in explicit and getattr(self, name) is not None]
        said = self._left_behind
        if lost:
            said = f"This {type(self).__name__} was pickled without its {' and '.join(lost)}, as credentials are never "
            said += "pickled: configure the workspace where it is loaded, or set the field anew."
        found = {} if "host" in explicit else {"host": None}  # it is looked for where this is loaded
        values = {**state["__dict__"], **dict.fromkeys(_CREDENTIALS), **found}
        private = {**(state["__pydantic_private__"] or {}), "_left_behind": said}
        return {
            **state,
            "__dict__": values,
            "__pydantic_fields_set__": explicit - set(_CREDENTIALS),
            "__pydantic_private__": private,
        }

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._show_what_is_found()


def profile_of(uri: str | None, field: str) -> str | None:
    """The profile in an MLflow deployment URI: `databricks` has none, `databricks://name` has one.

    Raises:
        ValueError: it is no such URI.
    """
    scheme, _, name = (uri or "databricks").partition("://")
    if scheme != "databricks" or ":" in name or "/" in name:
        raise ValueError(f"Invalid {field} {uri!r}: it is 'databricks', or 'databricks://<profile>'.")
    return name or None


def bounded(config: Config, limit: int) -> Any:
    """The config of a batch, with a limit to the calls that are under way at once where it has none."""
    if isinstance(config, list):
        return [bounded(one, limit) for one in config]
    said = (config or {}).get("max_concurrency")
    return {**(config or {}), "max_concurrency": limit if said is None else said}


# Fields of other classes of LangChain's: these classes'.
_FIELDS = {
    **dict.fromkeys(("openai_api_key", "databricks_token", "access_token", "anthropic_api_key"), ("api_token",)),
    **dict.fromkeys(("base_url", "openai_api_base", "databricks_host", "api_base", "workspace_url"), ("host",)),
    **dict.fromkeys(
        ("model_name", "model", "endpoint", "endpoint_name", "deployment_name"), ("endpoint_name", "model")
    ),
    **dict.fromkeys(("model_id", "azure_deployment", "deployment", "name_of_model"), ("endpoint_name", "model")),
    **dict.fromkeys(("request_timeout", "timeout_s"), ("timeout",)),
    **dict.fromkeys(("retries", "num_retries"), ("max_retries",)),
    **dict.fromkeys(("model_kwargs", "params"), ("extra_params", "query_params")),
    "databricks_profile": ("config_profile",),
    "http_client": ("client",),
}


def _instead(name: str, known: set[str]) -> str:
    if meant := next((field for field in _FIELDS.get(name, ()) if field in known), None):
        return f" Use {meant}."
    from difflib import get_close_matches

    near = get_close_matches(name, sorted(known), 1, 0.75)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    return f"{meant} Parameters of the model that have no field go into extra_params={{...}}."


def _revealed(token: Token | None, is_async: bool) -> Any:
    """What a client takes as its token. It is nobody's local variable, so that no traceback shows it."""
    if callable(token):
        return _in_thread(token) if is_async else token
    return token.get_secret_value() if token is not None else None


def _in_thread(function: Callable[[], Any]) -> Callable[[], Awaitable[str]]:
    """A token function that never holds up the event loop, whatever it does."""
    from anyio.to_thread import run_sync

    async def token() -> str:
        if inspect.iscoroutinefunction(function):
            return await function()  # type: ignore[no-any-return]
        result = await run_sync(function)
        return await result if inspect.isawaitable(result) else result  # type: ignore[no-any-return]

    return token


def _sdk_token(workspace_client: Any) -> Callable[[], str]:
    """The bearer token of Databricks' own SDK, fresh at every attempt."""

    def token() -> str:
        header = workspace_client.config.authenticate().get("Authorization", "")
        return str(header).removeprefix("Bearer ")

    return token
