"""What became of one row: its answer, or the error that took its place. Plain values, for JSON and for pickles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import APIError


class RowInputError(ValueError):
    """A row that cannot be sent: a missing column, a value of the wrong kind. It becomes an error row."""


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row has no answer.

    Attributes:
        name: the class of the error ("RateLimitError", "RowInputError" …).
        message: what happened and what to do next.
        status: HTTP status; None if there was no answer.
        code: Databricks' error code, or "".
        request_id: the workspace's id of the last attempt.
        attempts: how often the row was sent; 0 if it could not be sent.
        retryable: another run may succeed with the same row.
        may_be_paid: an attempt may have run, and been paid, although no answer came.
    """

    name: str
    message: str
    status: int | None = None
    code: str = ""
    request_id: str | None = None
    attempts: int = 0
    retryable: bool = False
    may_be_paid: bool = False

    @classmethod
    def of(
        cls, error: BaseException, *, attempts: int = 0, retryable: bool = False, may_be_paid: bool = False
    ) -> RowError:
        """The value for an exception."""
        name = type(error).__name__
        if not isinstance(error, APIError):
            return cls(name, str(error) or name, attempts=attempts, may_be_paid=may_be_paid)
        status, code, request_id = error.status, error.error_code, error.request_id
        return cls(name, error.message, status, code, request_id, attempts, retryable, may_be_paid)


@dataclass(slots=True)
class RowResult:
    """The answer of one row, or its error.

    Attributes:
        index: the row's place in the input, from 0.
        key: the row's own name (`custom_id`), or None.
        output: the text; for `embed` a vector (a list of vectors for a list of texts); for `predict` the prediction.
        parsed: what the text was read as, with `response_model`.
        finish_reason: stop, length …; None when nobody says.
        input_tokens, output_tokens: the usage that the server reported, or None.
        model: the model that answered.
        request_id: the workspace's id of the request.
        attempts: how often the row was sent.
        latency: seconds of the last attempt.
        unclear: how many failed attempts may have run, and been paid, although no answer came.
        error: why there is no answer; None if there is one.
    """

    index: int
    key: str | None = None
    output: Any = None
    parsed: Any = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    model: str | None = None
    request_id: str | None = None
    attempts: int = 0
    latency: float = 0.0
    unclear: int = 0
    error: RowError | None = None

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.error is None

    def as_dict(self) -> dict[str, Any]:
        """A dict for JSON; `parsed` as plain data."""
        made = {name: getattr(self, name) for name in self.__slots__}
        made["error"] = None if self.error is None else asdict(self.error)
        made["parsed"] = _plain(self.parsed)
        return made

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RowResult:
        """The value of `as_dict`; `parsed` stays plain data."""
        error = content.get("error")
        return cls(**{**content, "error": None if error is None else RowError(**error)})


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    return value
