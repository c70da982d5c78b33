"""`from dbllm import dbutils`: Databricks' `dbutils.secrets`, wherever the code runs.

In a Databricks notebook there is a real `dbutils` already, and it is a name of the notebook that this import takes. So
there this module hands everything on to the real one (`dbutils.fs`, `dbutils.widgets`, … and `dbutils.secrets`, which
also hides the values in the notebook's output): the import changes nothing. Elsewhere there is `dbutils.secrets` only;
it asks the workspace that the environment or a profile names.
"""

from __future__ import annotations

import builtins
import os
import sys
from typing import Any

from dbllm import Client, SecretMetadata, SecretScope


class Secrets:
    """The secrets of the workspace that is configured when a method is called. Names and results are Databricks'."""

    def get(self, scope: str, key: str) -> str:
        """The value of a secret, as text.

        Raises:
            dbllm.ConfigError: no workspace, or no token.
            dbllm.APIError: the workspace refuses (there is no such secret, say), or does not answer.
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
    """The notebook's `dbutils`: it still has its name while the import that takes it is under way."""
    if "DATABRICKS_RUNTIME_VERSION" not in os.environ:
        return None
    found = getattr(sys.modules["__main__"], "dbutils", None)
    return globals().get("_real") if found is sys.modules[__name__] else found  # the latter when this is reloaded


_real = _notebooks_own()

secrets: Secrets = Secrets() if _real is None else _real.secrets


def __getattr__(name: str) -> Any:
    if _real is not None:
        return getattr(_real, name)
    raise AttributeError(f"dbllm.dbutils has no {name!r}: outside a Databricks notebook there is dbutils.secrets only.")
