"""dbllm's errors, which are langchain-core's too: `RateLimitError` is caught as `ModelRateLimitError` as well.

LangChain's retries ask `is_retryable` of its own classes, and repeat everything that is none of them. A langchain-core
that has no such class yet gets dbllm's error as it is.
"""

from __future__ import annotations

from typing import Any

from langchain_core import exceptions
from langchain_core.messages import BaseMessage

from dbllm import errors

_TWINS = {
    errors.AuthenticationError: "ModelAuthenticationError",
    errors.PermissionDeniedError: "ModelPermissionDeniedError",
    errors.NotFoundError: "ModelNotFoundError",
    errors.ContextOverflowError: "ContextOverflowError",
    errors.BadRequestError: "ModelInvalidRequestError",
    errors.RequestTooLargeError: "ModelInvalidRequestError",
    errors.ConflictError: "ModelInvalidRequestError",
    errors.RateLimitError: "ModelRateLimitError",
    errors.InternalServerError: "ModelAPIError",
    errors.APIConnectionError: "ModelConnectionError",
    errors.StreamInterruptedError: "ModelConnectionError",
    errors.APITimeoutError: "ModelTimeoutError",
    errors.APIStatusError: "ModelError",
    errors.APIResponseError: "ModelError",
    errors.ConfigError: "ModelError",
}


def _both(own: type[Exception], twin: str, name: str = "") -> Any:
    other = getattr(exceptions, twin, None)
    name = name or own.__name__
    body = {"__module__": __name__, "__doc__": own.__doc__, "__qualname__": name}
    return type(name, (own, other), body) if other else own


_CLASSES = {own: _both(own, twin) for own, twin in _TWINS.items()}
globals().update({kind.__name__: kind for kind in _CLASSES.values()})  # so that they can be pickled

RefusalError: Any = _both(errors.APIResponseError, "ModelRefusalError", "RefusalError")
"""The model refused: an `APIResponseError`, and a `ModelRefusalError` where langchain-core has that."""


def refusal_error(text: str, message: BaseMessage) -> Exception:
    """The error for a refusal in place of the output that was asked for."""
    error: Exception = RefusalError(f"the model refused: {text}" if text else "the model refused", hint=_REFUSED)
    error.raw_message = message  # type: ignore[attr-defined]
    return error


def cut_error(text: str) -> Exception:
    """The error for an output that ends where the limit of tokens was, so that it is not whole."""
    what = f"; it begins with {text[:200]!r}" if text else ""
    error: Exception = _CLASSES[errors.APIResponseError](
        f"the answer was cut at the limit of tokens (finish_reason length){what}", hint="Allow more with max_tokens=."
    )
    return error


_REFUSED = "Ask for something else."


class _AsLangChains:
    """Around calls of dbllm: what they raise leaves as an error of LangChain's too, with all that it tells."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and (both := _CLASSES.get(type(error))):
            error.__class__ = both


as_langchains = _AsLangChains()
