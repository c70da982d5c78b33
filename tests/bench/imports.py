"""What imports cost: CPU time of fresh interpreters, interleaved, with the bytecode written before."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from processes import HERE, environment

DEPENDENCIES = "import httpx, pydantic, anyio, tenacity\nclass A(pydantic.BaseModel):\n    x: int"
CLIENT = "import dbllm; dbllm.AsyncClient"

# Where trio is installed, some packages import it. It is hidden in the way in which it would be missing.
WITHOUT_TRIO = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "trio":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""
# Without the collector: whether its one long walk falls into the import is chance.
MEASURED = """
import gc, sys, time
gc.disable()
began = time.process_time()
{}
print(time.process_time() - began)
"""

IMPORTS = {
    "its four dependencies, by name": "import httpx, pydantic, anyio, tenacity",
    "dbllm, by name": "import dbllm",
    "openai": "import openai",
    "databricks-sdk": "import databricks.sdk",
    "databricks-langchain": "import databricks_langchain",
}
WORLDS = {  # what is said first
    "with trio installed": "",
    "without trio": WITHOUT_TRIO,
}
# An installer compiles a package once, and an environment may forbid bytecode: it has a folder of its own here.
BYTECODE = tempfile.TemporaryDirectory(prefix="dbllm-bench-")
MOST = 1.2  # times what its dependencies take
ROUNDS = 9


def seconds(statement: str, before: str = "", tree: Path | None = None) -> float | None:
    """CPU seconds of an import in a fresh interpreter; None where something is not installed."""
    command = [sys.executable, "-c", before + MEASURED.format(statement)]
    place = environment(tree, PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=BYTECODE.name)
    # Elsewhere than beside a source tree of dbllm.
    done = subprocess.run(command, cwd=HERE, env=place, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def imports(rounds: int) -> dict[str, float]:
    """CPU seconds of each import: the median."""
    costs: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, statement in IMPORTS.items():
            cost = seconds(statement)
            if cost is not None and number:  # the first writes bytecode
                costs.setdefault(name, []).append(cost)
    return {name: median(those) for name, those in costs.items()}


def client_ratios(tree: Path | None = None) -> dict[str, float]:
    """What the import of the client takes, over what its dependencies take; each is the median of nine."""
    costs: dict[tuple[str, str], list[float]] = {}
    for number in range(ROUNDS + 1):
        for name, before in WORLDS.items():
            for statement in (CLIENT, DEPENDENCIES) if number % 2 else (DEPENDENCIES, CLIENT):
                cost = seconds(statement, before, tree)
                if cost is None:
                    raise SystemExit(f"this failed: {statement}")
                if number:
                    costs.setdefault((name, statement), []).append(cost)
    return {name: median(costs[name, CLIENT]) / median(costs[name, DEPENDENCIES]) for name in WORLDS}
