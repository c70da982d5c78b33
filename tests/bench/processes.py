"""The processes that take part: each client on one core, the server of fixed answers on another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def environment(tree: Path | None = None, **further: str) -> dict[str, str]:
    """This environment; with `tree`, its dbllm is the one that is imported, whatever is installed."""
    return {**os.environ, **({"PYTHONPATH": str(tree)} if tree else {}), **further}


class Client:
    """A client's process."""

    def __init__(self, name: str, hosts: list[str], tree: Path | None = None, **further: str) -> None:
        self.name = name
        command = [sys.executable, str(HERE / "clients.py"), name, *hosts, str(CORES[0])]
        self._process = subprocess.Popen(
            command, env=environment(tree, **further), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        first = self._read()
        self.kinds: list[str] = first.get("kinds", [])
        if self.kinds and tree is not None and Path(first["dbllm"]).parents[1] != tree.resolve():
            self.close()
            raise SystemExit(f"{tree} was to be measured, and {first['dbllm']} was imported.")

    def order(self, **order: Any) -> dict[str, Any]:
        """What it cost; without `cpu` if it failed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {}
        return self._read()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line.startswith("{") else {}


@contextmanager
def server() -> Iterator[list[str]]:
    """The hosts of a running server: one that answers at once, one that answers after 50 ms."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "server.py"), str(CORES[-1])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield [f"http://127.0.0.1:{port}" for port in process.stdout.readline().split()]
    finally:
        process.kill()
        process.communicate()
