"""dbllm: the language models that Databricks serves, from Python; async first.

The names below are imported when they are first used, so that `dbllm --help` and the like need not wait for them.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    # fmt: off
    # isort: off
    from .client import AsyncClient
    from .apps import AsyncDriverApp
    from .endpoints import AsyncEndpoint
    from .errors import (
        APIConnectionError, APIError, APIResponseError, APIStatusError, APITimeoutError, AuthenticationError,
        BadRequestError, ConfigError, ConflictError, DbllmError, InternalServerError, NotFoundError,
        PermissionDeniedError, RateLimitError, Raw, RequestTooLargeError, StreamInterruptedError,
    )
    from .retry import Retry, Timeout
    from .schema import (
        ChatCompletion, ChatCompletionChunk, Completion, CompletionChunk, Embeddings, Message, OutputItem,
        Predictions, PromptRequest, Response, ResponseEvent, Usage,
    )
    from .secrets import AsyncSecrets, SecretAcl, SecretMetadata, Secrets, SecretScope
    from .serving import AsyncEndpoints, Endpoints, ServingEndpoint
    from .stream import AsyncStream, Stream
    from .sync import Client, DriverApp, Endpoint

# fmt: off
__all__ = [
    "APIConnectionError", "APIError", "APIResponseError", "APIStatusError", "APITimeoutError", "AsyncClient",
    "AsyncDriverApp", "AsyncEndpoint", "AsyncEndpoints", "AsyncSecrets", "AsyncStream", "AuthenticationError",
    "BadRequestError", "ChatCompletion", "ChatCompletionChunk", "Client", "Completion", "CompletionChunk",
    "ConfigError", "ConflictError", "DbllmError", "DriverApp", "Embeddings", "Endpoint", "Endpoints",
    "InternalServerError", "Message", "NotFoundError", "OutputItem", "PermissionDeniedError", "Predictions",
    "PromptRequest", "RateLimitError", "Raw", "RequestTooLargeError", "Response", "ResponseEvent", "Retry",
    "SecretAcl", "SecretMetadata", "SecretScope", "Secrets", "ServingEndpoint", "Stream", "StreamInterruptedError",
    "Timeout", "Usage",
]
# fmt: on

_ROOMS = ("errors", "retry", "schema", "stream", "apps", "endpoints", "client", "sync", "serving", "secrets")


def __getattr__(name: str) -> _typing.Any:
    for room in _ROOMS if name in __all__ else ():
        module = _importlib.import_module(f".{room}", __name__)
        if name in vars(module):
            value = globals()[name] = getattr(module, name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
