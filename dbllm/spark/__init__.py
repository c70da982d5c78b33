"""A model's answer for each row of a Spark DataFrame: one call, on classic Spark, Spark Connect and Databricks.

    from dbllm.spark import chat

    answers = chat(df, "dolly", prompt="Summarise: {text}", concurrency=64, rpm=600, ledger="/Volumes/main/jobs/ledger")

`concurrency`, `rpm` and `tpm` are those of the whole job. With a ledger nothing is paid twice by a retry, a second
action or a second run. It needs the extra: pip install 'dbllm[spark]'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .functions import chat, complete, embed, predict, respond
from .java import java_home
from .ledger import LedgerError
from .query import register
from .worker import RowFailedError

__all__ = ["LedgerError", "RowFailedError", "chat", "complete", "embed", "java_home", "predict", "register", "respond"]


if not TYPE_CHECKING:  # a type checker finds the mistake by itself

    def __getattr__(name: str) -> object:
        from dbllm._misnomers import missing_name

        raise missing_name(__name__, name, __all__)
