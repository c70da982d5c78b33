"""dbllm: an async-first SDK for the language models that Databricks serves.

Each name below is imported when it is first used, so that `dbllm --help` starts quickly.
"""

import importlib as _importlib
import typing as _typing

from ._lazy import WholeImport as _WholeImport
from ._lazy import own_version as _own_version

if _typing.TYPE_CHECKING:
    __version__: str
    # fmt: off
    # isort: off
    from ._client import AsyncClient as AsyncClient
    from ._inference.agent import AsyncAgent as AsyncAgent
    from ._inference.attachments import audio as audio, file as file, image as image
    from ._inference.driver_app import AsyncDriverApp as AsyncDriverApp
    from ._inference.endpoint import AsyncEndpoint as AsyncEndpoint
    from ._inference.run import AsyncRun as AsyncRun
    from ._inference.stream import AsyncStream as AsyncStream, Stream as Stream
    from ._management.endpoints import (
        AsyncEndpoints as AsyncEndpoints, Endpoints as Endpoints, ServingEndpoint as ServingEndpoint,
    )
    from ._management.model_services import (
        AsyncModelProviders as AsyncModelProviders, AsyncModelServices as AsyncModelServices,
        ModelProvider as ModelProvider, ModelProviders as ModelProviders, ModelService as ModelService,
        ModelServices as ModelServices,
    )
    from ._management.secrets import (
        AsyncSecrets as AsyncSecrets, SecretAcl as SecretAcl, SecretMetadata as SecretMetadata, Secrets as Secrets,
        SecretScope as SecretScope,
    )
    from ._protocol.models import (
        ChatCompletion as ChatCompletion, ChatCompletionChunk as ChatCompletionChunk, Completion as Completion,
        CompletionChunk as CompletionChunk, Embeddings as Embeddings, Message as Message, OutputItem as OutputItem,
        Predictions as Predictions, PromptRequest as PromptRequest, Response as Response,
        ResponseEvent as ResponseEvent, Usage as Usage,
    )
    from ._sync_client import (
        Agent as Agent, Client as Client, DriverApp as DriverApp, Endpoint as Endpoint, Run as Run,
    )
    from ._transport.hooks import (
        Attempt as Attempt, AttemptRequest as AttemptRequest, Hooks as Hooks, RequestInfo as RequestInfo,
        ResponseInfo as ResponseInfo, StreamEvent as StreamEvent, TokenRefresh as TokenRefresh,
    )
    from ._transport.limits import Limits as Limits
    from ._transport.retry import Retry as Retry, Timeout as Timeout
    from ._transport.stats import EndpointStats as EndpointStats, Stats as Stats
    from .errors import (
        APIConnectionError as APIConnectionError, APIError as APIError, APIResponseError as APIResponseError,
        APIStatusError as APIStatusError, APITimeoutError as APITimeoutError,
        AuthenticationError as AuthenticationError, BadRequestError as BadRequestError, ConfigError as ConfigError,
        ConflictError as ConflictError, ContextOverflowError as ContextOverflowError, DbllmError as DbllmError,
        InternalServerError as InternalServerError,
        NotFoundError as NotFoundError, PermissionDeniedError as PermissionDeniedError,
        RateLimitError as RateLimitError, Raw as Raw, RequestTooLargeError as RequestTooLargeError,
        StreamInterruptedError as StreamInterruptedError,
    )
    # isort: on
    # fmt: on

_NAMES = {  # where each public name is defined
    "errors": "APIConnectionError APIError APIResponseError APIStatusError APITimeoutError AuthenticationError "
    "BadRequestError ConfigError ConflictError ContextOverflowError DbllmError InternalServerError NotFoundError "
    "PermissionDeniedError RateLimitError Raw RequestTooLargeError StreamInterruptedError",
    "_client": "AsyncClient",
    "_sync_client": "Agent Client DriverApp Endpoint Run",
    "_inference.agent": "AsyncAgent",
    "_inference.attachments": "audio file image",
    "_inference.run": "AsyncRun",
    "_inference.endpoint": "AsyncEndpoint",
    "_inference.driver_app": "AsyncDriverApp",
    "_inference.stream": "AsyncStream Stream",
    "_management.endpoints": "AsyncEndpoints Endpoints ServingEndpoint",
    "_management.model_services": "AsyncModelProviders AsyncModelServices ModelProvider ModelProviders ModelService "
    "ModelServices",
    "_management.secrets": "AsyncSecrets SecretAcl SecretMetadata SecretScope Secrets",
    "_protocol.models": "ChatCompletion ChatCompletionChunk Completion CompletionChunk Embeddings Message OutputItem "
    "Predictions PromptRequest Response ResponseEvent Usage",
    "_transport.hooks": "Attempt AttemptRequest Hooks RequestInfo ResponseInfo StreamEvent TokenRefresh",
    "_transport.limits": "Limits",
    "_transport.retry": "Retry Timeout",
    "_transport.stats": "EndpointStats Stats",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

if not _typing.TYPE_CHECKING:  # type checkers read the imports above
    __all__ = sorted(_MODULES)


def __getattr__(name: str) -> _typing.Any:
    if name in _MODULES:
        with _WholeImport():
            module = _importlib.import_module(f".{_MODULES[name]}", __name__)
        value = globals()[name] = getattr(module, name)
        return value
    if name == "__version__":
        return _own_version()
    from ._misnomers import missing_name

    raise missing_name(__name__, name, _MODULES if name[:1].isupper() else ())


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
