"""dbllm: the language models that Databricks serves, from Python; async first.

The names below are imported when they are first used, so that `dbllm --help` and the like need not wait for them.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from ._client import AsyncClient as AsyncClient
    from ._inference.endpoint import AsyncEndpoint as AsyncEndpoint
    from ._inference.handle import AsyncDriverApp as AsyncDriverApp
    from ._inference.stream import AsyncStream as AsyncStream
    from ._inference.stream import Stream as Stream
    from ._management.endpoints import AsyncEndpoints as AsyncEndpoints
    from ._management.endpoints import Endpoints as Endpoints
    from ._management.endpoints import ServingEndpoint as ServingEndpoint
    from ._management.secrets import AsyncSecrets as AsyncSecrets
    from ._management.secrets import SecretAcl as SecretAcl
    from ._management.secrets import SecretMetadata as SecretMetadata
    from ._management.secrets import Secrets as Secrets
    from ._management.secrets import SecretScope as SecretScope
    from ._protocol.models import ChatCompletion as ChatCompletion
    from ._protocol.models import ChatCompletionChunk as ChatCompletionChunk
    from ._protocol.models import Completion as Completion
    from ._protocol.models import CompletionChunk as CompletionChunk
    from ._protocol.models import Embeddings as Embeddings
    from ._protocol.models import Message as Message
    from ._protocol.models import OutputItem as OutputItem
    from ._protocol.models import Predictions as Predictions
    from ._protocol.models import PromptRequest as PromptRequest
    from ._protocol.models import Response as Response
    from ._protocol.models import ResponseEvent as ResponseEvent
    from ._protocol.models import Usage as Usage
    from ._sync_client import Client as Client
    from ._sync_client import DriverApp as DriverApp
    from ._sync_client import Endpoint as Endpoint
    from ._transport.retry import Retry as Retry
    from ._transport.retry import Timeout as Timeout
    from .errors import APIConnectionError as APIConnectionError
    from .errors import APIError as APIError
    from .errors import APIResponseError as APIResponseError
    from .errors import APIStatusError as APIStatusError
    from .errors import APITimeoutError as APITimeoutError
    from .errors import AuthenticationError as AuthenticationError
    from .errors import BadRequestError as BadRequestError
    from .errors import ConfigError as ConfigError
    from .errors import ConflictError as ConflictError
    from .errors import DbllmError as DbllmError
    from .errors import InternalServerError as InternalServerError
    from .errors import NotFoundError as NotFoundError
    from .errors import PermissionDeniedError as PermissionDeniedError
    from .errors import RateLimitError as RateLimitError
    from .errors import Raw as Raw
    from .errors import RequestTooLargeError as RequestTooLargeError
    from .errors import StreamInterruptedError as StreamInterruptedError

_NAMES = {  # where each public name is defined
    "errors": "APIConnectionError APIError APIResponseError APIStatusError APITimeoutError AuthenticationError "
    "BadRequestError ConfigError ConflictError DbllmError InternalServerError NotFoundError PermissionDeniedError "
    "RateLimitError Raw RequestTooLargeError StreamInterruptedError",
    "_client": "AsyncClient",
    "_sync_client": "Client DriverApp Endpoint",
    "_inference.endpoint": "AsyncEndpoint",
    "_inference.handle": "AsyncDriverApp",
    "_inference.stream": "AsyncStream Stream",
    "_management.endpoints": "AsyncEndpoints Endpoints ServingEndpoint",
    "_management.secrets": "AsyncSecrets SecretAcl SecretMetadata SecretScope Secrets",
    "_protocol.models": "ChatCompletion ChatCompletionChunk Completion CompletionChunk Embeddings Message OutputItem "
    "Predictions PromptRequest Response ResponseEvent Usage",
    "_transport.retry": "Retry Timeout",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> _typing.Any:
    if name in _MODULES:
        value = globals()[name] = getattr(_importlib.import_module(f".{_MODULES[name]}", __name__), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
