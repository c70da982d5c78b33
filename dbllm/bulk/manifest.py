"""What a job is of: the settings its user gave, and the manifest that is kept beside its journal."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import JournalError
from .plan import Summary
from .report import Price


class StopSignal:
    """Asks a job to end: once to let what is in flight end, twice to cut it. Any thread or signal handler may ask."""

    def __init__(self) -> None:
        self.level = 0

    def request(self, *_: object) -> None:
        self.level += 1


@dataclass
class Settings:
    """What a user asked of a job, beside its calls; `run` describes each."""

    output: Path
    name: str = "the input"
    path: Path | None = None
    input_format: str = "jsonl"
    rows: Any = None
    journal: Path | None = None
    page: Path | None = None
    dedupe: bool = True
    keep_bad_rows: bool = False
    retry_errors: bool | Collection[str] = False
    retry_ambiguous: bool = False
    accept_changes: bool = False
    overwrite: bool = False
    concurrency: int | None = None
    limits: Any = None
    max_error_rate: float | None = None
    price: Price | None = None
    drain_seconds: float = 30.0


@dataclass
class Manifest:
    """The file beside the journal: of what input and settings the job is, and how far its journal was."""

    job: str = field(default_factory=lambda: secrets.token_hex(8))
    config: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] | None = None
    accepted: bool = False
    output: str | None = None
    mark: dict[str, Any] | None = None
    length: int = 0
    seconds: float = 0.0
    state: str = "new"
    history: list[Any] = field(default_factory=list)
    report: dict[str, Any] | None = None
    version: int = 1

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """The manifest that lies there, or None.

        Raises:
            JournalError: it is no manifest.
        """
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JournalError(f"{path} cannot be read: {error.strerror or error}.") from None
        except (ValueError, TypeError):
            raise JournalError(
                f"{path} is no manifest of a job that this version of dbllm knows. Restore it, or move it away "
                "together with the .part beside it to start anew (what that holds is then paid again)."
            ) from None


def describe_changes(known: dict[str, Any], now: dict[str, Any], names: list[str]) -> str:
    """What the settings of these names were, and what they are now."""
    said = [f"{name}={shortened(known[name])}, and now it is {shortened(now[name])}" for name in names]
    return "; ".join(said)


def shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def describe_bad_rows(name: str, summary: Summary, most: int = 3) -> str:
    """The rows that cannot be sent, in one sentence."""
    first = "; ".join(f"line {line}: {problem.rstrip('.')}" for line, problem in summary.problems[:most])
    more = f" (and {summary.bad - most:,} more)" if summary.bad > most else ""
    return (
        f"{name}, {first}{more}. Nothing was sent. Mend the input, or pass --keep-bad-rows: the others are answered, "
        "and these become error rows."
    )
