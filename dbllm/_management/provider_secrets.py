"""Keys of model providers go to the workspace by reference alone. Pure."""

from __future__ import annotations

import re
from typing import Any

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


def _plain_secret(value: Any, place: str) -> str | None:
    if isinstance(value, dict):
        for key, inner in value.items():
            where = f"{place}.{key}"
            if isinstance(inner, (str, bytes)) and _SECRET_FIELD.search(str(key)):
                return where
            if key != "secret_reference" and (found := _plain_secret(inner, where)):
                return found
    elif isinstance(value, (list, tuple)):
        return next((found for n, each in enumerate(value) if (found := _plain_secret(each, f"{place}[{n}]"))), None)
    return None
