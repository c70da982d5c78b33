"""Where a Python worker finds its credential. A job carries the name of the place, never what lies there."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from dbllm import Client, ConfigError


def settings_of(credential: str | None, host: str | None) -> dict[str, Any]:
    """What `RowMapper` is given for a reference.

    Raises:
        ConfigError: it names no place; it may be the credential itself, so it is not repeated.
    """
    if credential is None:
        return {"host": host}
    kind, _, name = credential.partition(":") if isinstance(credential, str) else ("", "", "")
    scope, _, key = name.partition("/")
    if kind == "profile" and name:
        return {"host": host, "profile": name}
    if kind == "env" and name.isidentifier():
        return {"host": host, "token": EnvironmentToken(name)}
    if kind == "secret" and scope and key:
        return {"host": host, "token": SecretToken(scope, key)}
    raise ConfigError(
        'credential names where each worker finds it: "env:NAME", "profile:NAME" or "secret:scope/key". Without it the '
        "workers look where every client does: environment, profile, Databricks runtime."
    )


def host_of(credential: str | None, host: str | None) -> str | None:
    """The workspace that is called, as far as the driver knows: answers of one are none of another."""
    try:
        with Client(**settings_of(credential, host)) as client:
            return client.host
    except ConfigError:  # the workers have what the driver lacks
        return host if host is not None or credential is None else credential


@dataclass(frozen=True)
class EnvironmentToken:
    """A token in an environment variable of the workers."""

    name: str

    def __call__(self) -> str:
        token = os.environ.get(self.name)
        if not token:
            raise ConfigError(
                f"the environment variable {self.name} is not set where Spark's Python workers run: set it in the "
                f"cluster's environment (spark.executorEnv.{self.name}, or the cluster's environment variables)."
            )
        return token


@dataclass(frozen=True)
class SecretToken:
    """A token in a secret scope, which the workers read with the credential that they have."""

    scope: str
    key: str

    def __call__(self) -> str:
        known = _secrets.get(self)
        if known is None or time.monotonic() - known[0] > SECRET_SECONDS:
            with Client() as client:
                known = _secrets[self] = time.monotonic(), client.secrets.get(self.scope, self.key)
        return known[1]


SECRET_SECONDS = 300.0
"""How long a worker keeps a secret: clients ask for the token before each attempt."""

_secrets: dict[SecretToken, tuple[float, str]] = {}
