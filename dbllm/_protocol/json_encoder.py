"""A request body as JSON text: pydantic models, numpy values and dates included. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from .._misnomers import by_kind


def encode(body: object) -> bytes:
    """JSON text of a body, UTF-8.

    Pydantic models, numpy and pandas values, Decimals and dates inside it become plain JSON: a date or time is ISO 8601
    text, a missing one (NaT) is null.

    Raises:
        ValueError: a NaN or an infinity (JSON has none) or half a surrogate pair; the message says where.
        TypeError: something JSON has no form for, such as bytes or numpy's timedelta64.
    """
    try:
        return _json(body).encode()
    except UnicodeEncodeError:
        raise ValueError(_first_flaw(body, "") or "the request holds text that is not Unicode.") from None
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(_first_flaw(body, "") or str(error)) from None
    except RecursionError:
        raise ValueError("the request is nested too deep, or in itself.") from None


def plain_step(value: Any) -> Any:
    """Something as a value that is nearer to plain JSON; what is in it may need a step of its own.

    Raises:
        TypeError: JSON has no form for it.
    """
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return list(value)
    if type(value).__name__ == "NAType":  # pandas' missing value
        return None
    if type(value).__name__ == "Decimal":
        return _plain_decimal(value)
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind in _TIMES and not isinstance(value, type):
        return _plain_time(value, kind)
    for name in ("tolist", "isoformat"):  # numpy scalars and arrays; dates
        if not isinstance(value, type) and callable(method := getattr(value, name, None)):
            plain = method()
            if type(plain) is not type(value):
                return None if name == "isoformat" and plain == "NaT" else plain  # pandas' missing time
            if kind == "f":  # longdouble, which is wider than a number of Python
                return float(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON: {value!r:.80}.{by_kind('json', value)}")


def _plain_decimal(value: Any) -> float | None:
    """The number that JSON's readers make of it, if that is the same one."""
    if value.is_nan():
        return None
    number = float(value)
    if type(value)(repr(number)) != value:
        raise TypeError(f"{value!r:.80} has more digits than a JSON number keeps: pass it as float() or as str().")
    return number


_TIMES = ("M", "m", "V")  # numpy's kinds: moments, durations, and records, which may hold either


def _plain_time(value: Any, kind: str) -> Any:
    """As `plain_step`; numpy's own `tolist` gives counts of nanoseconds for some of these."""
    if getattr(value, "ndim", 0) or (kind == "V" and value.dtype.names):
        return list(value)
    text = str(value)
    if text == "NaT":
        return None
    if kind != "M":
        advice = " Divide it by numpy.timedelta64(1, 's') for seconds." if kind == "m" else ""
        raise TypeError(f"{type(value).__name__} has no form in JSON: {value!r:.80}.{advice}")
    micros = value.astype("M8[us]")
    moment = micros.tolist() if isinstance(value.tolist(), int) and micros == value else value.tolist()
    return text if isinstance(moment, int) else moment.isoformat()  # int: nanoseconds, or a year beyond 9999


_MENDED = 'Drop it with text.encode("utf-8", "ignore").decode(), or decode the text anew, in its own encoding.'

# Circular references end in RecursionError, so the encoder's own (slower) circular check is off.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"), default=plain_step
)


def _quick_encoder() -> Callable[[object], str]:
    """What `_ENCODER.encode` does, without making its C encoder for each body: that takes as long as the body."""
    inner: Any = json.encoder
    try:
        fixed: Any = inner.c_make_encoder(
            None, plain_step, inner.encode_basestring, None, ":", ",", False, False, False
        )
        if "".join(fixed([{"é": 1.5}], 0)) == '[{"é":1.5}]':
            return lambda body: "".join(fixed(body, 0))
    except (AttributeError, TypeError):  # another Python than CPython
        pass
    return _ENCODER.encode


_json = _quick_encoder()


def _first_flaw(value: object, place: str) -> str:
    """The first value that JSON has no form for: where it is, and why."""
    if isinstance(value, float):
        why = "JSON has no form for a number that is not finite."
        return "" if math.isfinite(value) else f"{place or 'the value'} = {value}: {why}"
    if isinstance(value, str) and (half := re.search("[\ud800-\udfff]", value)):
        where = f"{place or 'the text'} is not Unicode: its character {half.start()}, {half[0]!r}"
        return f"{where}, is half of a surrogate pair. {_MENDED}"
    items: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        keys = [(f"a key of {place or 'the request'}", key) for key in value if isinstance(key, (float, str))]
        if other := [key for key in value if key is not None and not isinstance(key, (str, int, float))]:
            return f"a key of {place or 'the request'} must be text, got {other[0]!r:.80}."
        items = [*keys, *((f"{place}.{key}".lstrip("."), item) for key, item in value.items())]
    elif isinstance(value, (list, tuple)):
        items = [(f"{place}[{number}]", item) for number, item in enumerate(value)]
    elif value is not None and not isinstance(value, (str, int)):
        try:
            items = [(place, plain_step(value))]
        except TypeError as error:
            return f"{place}: {error}" if place else str(error)
    return next((found for name, item in items if (found := _first_flaw(item, name))), "")
