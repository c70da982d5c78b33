"""What tests of bulk jobs share: inputs, and what a job left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dbllm import AsyncClient, bulk
from dbllm.testing import FaultServer

SIZE = "long" if os.environ.get("DBLLM_LONG") else os.environ.get("DBLLM_BULK", "short")


def sized(short: int, thorough: int, long: int) -> int:
    """How much of something: in every run, in `nox -s bulk`, and with DBLLM_LONG=1."""
    return {"short": short, "thorough": thorough, "long": long}[SIZE]


VOLATILE = ("request_id", "attempts", "latency")


def write_prompts(path: Path, number: int, *, same: int = 0, words: str = "row") -> Path:
    """A JSONL file with so many rows, the last `same` of which ask what the first ones do."""
    rows = [{"text": f"{words} {place % (number - same)}", "place": place} for place in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def without_volatile(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what differs from one run to the next."""
    return [{name: value for name, value in row.items() if name not in VOLATILE} for row in rows]


def run_job(server: FaultServer, source: Any, output: Path, **options: Any) -> bulk.Report:
    """A job on the fault server, with the prompt "Say {text}"; `defaults` are the endpoint's own parameters."""
    with_prompt = {"prompt": "Say {text}", **options}
    defaults = with_prompt.pop("defaults", None)
    endpoint = AsyncClient(server.host, "token").endpoint("m", task="chat", params=defaults)  # so nothing is looked up
    return bulk.run_sync(source, output, endpoint=endpoint, **with_prompt)
