"""Keys of model providers go to the workspace by reference alone. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ..errors import ConfigError

_SECRET_FIELD = re.compile(r"(api_key|secret|password|token|plaintext|key_value)$|_secret_|secret_access_key")


def check_secrets(*values: Any) -> None:
    """Refuse keys that stand in a config themselves: it would be readable in programs, logs and histories.

    Raises:
        ConfigError: there is one; the message says where, and does not show it.
    """
    for value in values:
        if (place := _plain_secret(value, "config")) is not None:
            raise ConfigError(
                f"{place} holds a key itself: put the key into a secret of Unity Catalog, and pass "
                '{"secret_reference": {"name": "secrets/catalog.schema.secret"}} in its place.'
            )


def _plain_secret(value: Any, place: str, is_secret: bool = False) -> str | None:
    """The place of a text under a name of keys, however deep below it, that is no reference; or None."""
    if is_secret and isinstance(value, (str, bytes)) and value:
        return place
    items: Any = ()
    if isinstance(value, Mapping):
        items = ((f".{key}", key, inner) for key, inner in value.items() if key != "secret_reference")
    elif isinstance(value, (list, tuple)):
        items = ((f"[{number}]", "", inner) for number, inner in enumerate(value))
    elif isinstance(value, BaseModel):
        return _plain_secret(value.model_dump(), place, is_secret)
    below = (_plain_secret(each, place + step, is_secret or _is_secret(key)) for step, key, each in items)
    return next(filter(None, below), None)


def _is_secret(key: object) -> bool:
    return bool(_SECRET_FIELD.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(key)).lower()))
