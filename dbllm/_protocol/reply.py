"""What all replies have in common: the call behind them, fields without a name here, and a short repr."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from .._lazy import WholeImport
from ..errors import APIError, APIResponseError, PublicPickle, Raw
from .content import served_model_in
from .display import Shown, attributes, brief

if TYPE_CHECKING:
    from typing import Generic
else:

    class Generic:  # pydantic takes the real one after its own class alone, where `RowList` would come too late
        __class_getitem__ = classmethod(lambda kind, _: kind)


RowT = TypeVar("RowT")


class WireModel(PublicPickle, BaseModel):
    """A JSON object as it goes over the wire; fields that have no name here are kept."""

    # Built at first use: a program that only embeds never pays for the chat models.
    model_config = ConfigDict(extra="allow", defer_build=True, protected_namespaces=(), coerce_numbers_to_str=True)

    _shown: ClassVar[tuple[str, ...]] = ()  # the attributes that the repr shows; by default all that are set

    def _attributes(self) -> Iterator[tuple[str, Any]]:
        """What the repr shows: names and values."""
        return attributes(self, self._shown or (*type(self).model_fields, *(self.model_extra or ())))

    def __repr_args__(self) -> Iterator[tuple[str, Shown]]:
        return ((name, brief(value)) for name, value in self._attributes())

    if not TYPE_CHECKING:  # a type checker finds the mistakes by itself

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                flaw = _misuse().missing_field(type(self), name)
            raise flaw

        def __getitem__(self, key: object) -> Any:
            raise _misuse().wrong_key(type(self), key)

        def __add__(self, other: object) -> Any:
            raise _misuse().wrong_use(type(self), "is not added to anything")

        __radd__ = __add__


def _misuse() -> Any:
    with WholeImport():
        from . import misuse  # here: only mistakes want it

    return misuse


_NO_RESPONSE = Raw(0)


class Redactor(Protocol):
    """Takes what was sent with a call and may be secret out of a text, an answer, an error."""

    def __call__(self, text: str) -> str: ...
    def raw(self, raw: Raw) -> Raw: ...
    def error(self, error: APIError) -> None: ...


class HasRedaction(Protocol):
    """What was sent."""

    @property
    def redaction(self) -> Redactor: ...


@dataclass(slots=True)  # not frozen: to make one would take three times as long
class CallInfo:
    """A 2xx response and how often the call was sent until it came; of a stream, its head."""

    raw: Raw = _NO_RESPONSE
    attempts: int = 1
    endpoint: str = ""
    request: HasRedaction | None = field(default=None, repr=False, compare=False)  # whose answer it is

    @property
    def request_id(self) -> str | None:
        """The workspace's id of the request."""
        return self.raw.request_id

    def __reduce__(self) -> tuple[Any, ...]:
        return CallInfo, (self.raw, self.attempts, self.endpoint)

    def unexpected(self, detail: str, hint: str = "") -> APIResponseError:
        """The error for an answer that is not what was promised; it keeps the whole answer."""
        raw = self.raw if self.raw.status else None
        error = APIResponseError(detail, hint=hint, request_id=self.request_id, attempts=self.attempts, raw=raw)
        self.redact(error)
        return error

    def redact(self, error: APIError) -> None:
        """Take what was sent and may be secret out of an error about this response."""
        if self.request is not None:
            self.request.redaction.error(error)


class HasCallInfo:
    """A reply that knows the call behind it."""

    # No private attribute of a model: pydantic takes as long for one as for a small answer.
    _call: CallInfo = CallInfo()

    @property
    def request_id(self) -> str | None:
        """The workspace's id of the request (header `x-request-id`); of a stream, once it is open."""
        return self._call.request_id

    @property
    def attempts(self) -> int:
        """How often the call was sent until the answer came; 0 for a stream that is not open yet."""
        return self._call.attempts

    @property
    def raw(self) -> Raw | None:
        """Status, headers and body as they came (no body for a stream)."""
        return self._call.raw if self._call.raw.status else None

    @property
    def answered_by(self) -> str:
        """The endpoint or model service that answered, by its name: with `fallback`, one of several."""
        return self._call.endpoint

    @property
    def served_model(self) -> str | None:
        """The served entity that answered (header `served-model-name`), where the workspace names it."""
        return self._call.raw.headers.get("served-model-name") or served_model_in(getattr(self, "model_extra", None))


class Reply(WireModel, HasCallInfo):
    """An answer and the call that brought it."""

    if not TYPE_CHECKING:

        def __iter__(self) -> Any:
            raise _misuse().wrong_use(type(self), "is not iterated over")

        def __len__(self) -> int:
            raise _misuse().wrong_use(type(self), "has no length")

        def __bool__(self) -> bool:
            return True

    def _repr_html_(self) -> str | None:
        """How a notebook shows it; None: by its repr."""
        return None


class RowList(Generic[RowT]):
    """A reply that is used as the list it holds: `for vector in embeddings`, `len(predictions)`."""

    def _rows(self) -> list[RowT]:
        rows = getattr(self, "vectors" if hasattr(self, "vectors") else "predictions")
        if isinstance(rows, list):
            return rows
        raise _misuse().wrong_use(type(self), f"holds {type(rows).__name__} here and no list")

    def __iter__(self) -> Iterator[RowT]:
        return iter(self._rows())

    def __len__(self) -> int:
        return len(self._rows())
