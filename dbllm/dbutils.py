"""`from dbllm import dbutils`: Databricks' `dbutils.secrets`, wherever the code runs.

A Databricks notebook has a real `dbutils` already, and this import takes over its name. There this module passes every
attribute on to the real one (`dbutils.fs`, `dbutils.widgets`, … and `dbutils.secrets`, which also hides values in the
notebook's output), so the import changes nothing. Elsewhere there is only `dbutils.secrets`. It reads from the
workspace that the environment or a profile names.
"""

from __future__ import annotations

import builtins
import os
import sys
from typing import Any

from dbllm import Client, SecretMetadata, SecretScope


class Secrets:
    """The secrets of the workspace that is configured when a method is called; names and results as in Databricks."""

    def get(self, scope: str, key: str) -> str:
        """The value of a secret, as text.

        Raises:
            dbllm.ConfigError: no workspace or no token is configured.
            dbllm.APIError: the workspace refuses (for example, there is no such secret), or does not answer.
        """
        with Client() as client:
            return client.secrets.get(scope, key)

    def getBytes(self, scope: str, key: str) -> bytes:
        """The value of a secret, as bytes; raises as `get`."""
        with Client() as client:
            return client.secrets.get_bytes(scope, key)

    def list(self, scope: str) -> builtins.list[SecretMetadata]:
        """The secrets of a scope, each with its `key`; raises as `get`."""
        with Client() as client:
            return client.secrets.list(scope)

    def listScopes(self) -> builtins.list[SecretScope]:
        """The scopes, each with its `name`; raises as `get`."""
        with Client() as client:
            return client.secrets.list_scopes()


def _notebooks_own() -> Any:
    """The notebook's own `dbutils`, or None. While this import runs, the notebook's name still refers to it."""
    if "DATABRICKS_RUNTIME_VERSION" not in os.environ:
        return None
    found = getattr(sys.modules["__main__"], "dbutils", None)
    return globals().get("_real") if found is sys.modules[__name__] else found  # `_real` is set when this is reloaded


_real = _notebooks_own()

secrets: Secrets = Secrets() if _real is None else _real.secrets


def __getattr__(name: str) -> Any:
    if _real is not None:
        return getattr(_real, name)
    raise AttributeError(f"dbllm.dbutils has no {name!r}: outside a Databricks notebook there is only dbutils.secrets.")
