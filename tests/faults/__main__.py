"""Faults of one line, and the tests that see them: `python tests/faults [TABLE] [--tree DIR] [--only NAME]`.

A table has faults of the core: a file, a text in it, what stands there instead, and the tests that see the
difference. `after.toml` is today's tree; `before.toml` has the same faults in the tree before the packages.

All named tests pass first, as the code is. Then each fault is made in a copy of the tree, and one of its tests fails by
an assertion: a test that cannot be imported, that breaks off or that hangs has not seen the fault.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest needs it there, too
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
TABLE = HERE / "after.toml"
TREE = HERE.parents[1]
COPIED = ("dbllm", "tests", "examples", "pyproject.toml", "noxfile.py", "README.md", "CHANGELOG.md", "LICENSE")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".pytest_cache", "results")

GREEN_SECONDS = 300.0  # what all named tests together may take
RED_SECONDS = 60.0  # what the tests of one fault may take
TEST_SECONDS = 20  # what one test may take
ASSERTED = ("assert", "AssertionError", "Failed: DID NOT RAISE", "Failed: DID NOT WARN", "Failed: Regex pattern")
"""How pytest's message begins where a test has found something else than it wanted."""

# It runs inside pytest, before any test is collected: where `dbllm` really comes from.
WITNESS = """
import os, pathlib, dbllm

def pytest_configure(config):
    pathlib.Path(os.environ["FAULTS_WITNESS"]).write_text(dbllm.__file__)
"""


class Flaw(Exception):
    """The table or the tree cannot be used."""


@dataclass(frozen=True)
class Fault:
    """One change of the code, and the tests that see it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


class Run(NamedTuple):
    """How pytest ended: its exit status (None: it took too long), its cases, and what it printed."""

    status: int | None
    cases: list[ElementTree.Element]
    said: str


def read(path: Path) -> list[Fault]:
    """The faults of a table.

    Raises:
        Flaw: it is no such table.
    """
    try:
        entries: list[dict[str, Any]] = tomllib.loads(path.read_text("utf-8"))["fault"]
        faults = [Fault(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Flaw(f"{path} is no table of faults: {type(error).__name__}: {error}") from None
    for fault in faults:
        if not fault.tests or fault.old == fault.new:
            raise Flaw(f"{path}: {fault.name!r} needs tests, and a new text that is another than the old one.")
    if len({fault.name for fault in faults}) != len(faults):
        raise Flaw(f"{path}: two faults have the same name.")
    return faults


@contextmanager
def copied(tree: Path) -> Iterator[Path]:
    """A copy of the tree, to be spoilt."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        copy = Path(folder).resolve() / "tree"
        copy.mkdir()
        for name in COPIED:
            if (tree / name).is_dir():
                shutil.copytree(tree / name, copy / name, ignore=LEFT_OUT)
            elif (tree / name).exists():
                shutil.copy2(tree / name, copy / name)
        (copy.parent / "faults_witness.py").write_text(WITNESS, "utf-8")
        yield copy


def environment(copy: Path) -> dict[str, str]:
    """What pytest and the programs that tests start find: the copy's `dbllm` first, and no bytecode of another text."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DBLLM_", "PYTEST_"))}
    ours = {
        "PYTHONPATH": os.pathsep.join([str(copy), str(copy.parent)]),
        "PYTHONDONTWRITEBYTECODE": "1",  # two texts of the same length within a second have the same stamp
        "FAULTS_WITNESS": str(copy.parent / "witness.txt"),
    }
    return {**kept, **ours}


def run(copy: Path, tests: Iterable[str], seconds: float, *options: str) -> Run:
    """Run tests in the copy.

    Raises:
        Flaw: it was not the copy that they tested.
    """
    report, witness = copy.parent / "report.xml", copy.parent / "witness.txt"
    for path in (report, witness):
        path.unlink(missing_ok=True)
    plugins = ("no:cacheprovider", "no:xdist", "no:asyncio", "faults_witness")
    command = [sys.executable, "-m", "pytest", "-q", *(word for plugin in plugins for word in ("-p", plugin))]
    command += [f"--timeout={TEST_SECONDS}", f"--junitxml={report}", *options, *tests]
    with subprocess.Popen(
        command, cwd=copy, env=environment(copy), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            with_children(process.pid)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Run(None, [], "")
    found = Path(witness.read_text()) if witness.exists() else None
    if found is not None and copy not in found.parents:
        raise Flaw(f"the tests import {found}, not the copy in {copy}.")
    cases = [*ElementTree.parse(report).iter("testcase")] if report.exists() else []
    return Run(process.returncode, cases, said)


def with_children(pid: int) -> None:
    """End a run that was started in a session of its own, and what it has started."""
    if os.name == "posix":
        os.killpg(pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGTERM)


def where(copy: Path) -> Path:
    """The package that a program finds which a test starts.

    Raises:
        Flaw: it is not the copy's.
    """
    command = [sys.executable, "-c", "import dbllm; print(dbllm.__file__)"]
    said = subprocess.run(
        command, cwd=copy.parent, env=environment(copy), capture_output=True, text=True, timeout=RED_SECONDS
    )
    if said.returncode != 0:
        raise Flaw(f"dbllm of the copy cannot be imported: {said.stderr.strip()[-500:]}")
    found = Path(said.stdout.strip())
    if found != copy / "dbllm" / "__init__.py":
        raise Flaw(f"programs import {found}, not the copy in {copy}.")
    return found


def spoilt(copy: Path, fault: Fault) -> tuple[Path, str, str]:
    """The file, its text, and its text with the fault.

    Raises:
        Flaw: the old text does not occur exactly once.
    """
    path = copy / fault.file
    if not path.is_file():
        raise Flaw(f"there is no file {fault.file}")
    text = path.read_text("utf-8")
    if (times := text.count(fault.old)) != 1:
        raise Flaw(f"the old text occurs {times} times in {fault.file}, not once")
    return path, text, text.replace(fault.old, fault.new)


def green(copy: Path, faults: Sequence[Fault]) -> None:
    """All named tests pass in the copy as it is.

    Raises:
        Flaw: one does not, is skipped, or is not there.
    """
    tests = list(dict.fromkeys(test for fault in faults for test in fault.tests))
    status, cases, said = run(copy, tests, GREEN_SECONDS)
    if status is None:
        raise Flaw(f"the tests without a fault took more than {GREEN_SECONDS:.0f} s.")
    if status != 0:
        raise Flaw(f"the tests without a fault do not pass (exit status {status}):\n{said[-4000:]}")
    if len(cases) < len(tests) or any(case.find("skipped") is not None for case in cases):
        raise Flaw(f"{len(tests)} tests were named, and {len(cases)} ran or were skipped:\n{said[-4000:]}")


def missed(result: Run) -> str:
    """Why a fault was not caught by its tests; "" where it was."""
    if result.status is None:
        return f"the tests did not end within {RED_SECONDS:.0f} s"
    if result.status == 0:
        return "its tests pass"
    if result.status != 1:
        return f"pytest ended with exit status {result.status}"
    failures = [failure.get("message", "") for case in result.cases for failure in case.findall("failure")]
    if any(message.startswith(ASSERTED) for message in failures):
        return ""
    errors = [error.get("message", "") for case in result.cases for error in case.findall("error")]
    found = next(iter([*failures, *errors]), "nothing") or "nothing"
    return f"no assertion failed, but: {found.splitlines()[0][:200]}"


def verdict(copy: Path, fault: Fault) -> str:
    """Make a fault, run its tests, and take it back: why it was not caught, or ""."""
    path, text, wrong = spoilt(copy, fault)
    path.write_text(wrong, "utf-8")
    try:
        return missed(run(copy, fault.tests, RED_SECONDS, "-x"))
    finally:
        path.write_text(text, "utf-8")


def chosen(faults: Sequence[Fault], only: str | None) -> list[Fault]:
    """The faults whose name has this in it.

    Raises:
        Flaw: there is none.
    """
    found = [fault for fault in faults if only is None or only.lower() in fault.name.lower()]
    if not found:
        raise Flaw(f"no fault has {only!r} in its name." if only else "the table has no fault.")
    return found


def told(table: Path, tree: Path, only: str | None) -> int:
    """Try the faults and print a line for each; how many were not caught."""
    faults = chosen(read(table), only)
    failed = 0
    with copied(tree) as copy:
        print(f"dbllm is {where(copy)}", flush=True)
        for fault in faults:
            try:
                spoilt(copy, fault)
            except Flaw as flaw:
                print(f"{fault.name}: {flaw}", flush=True)
                failed += 1
        if failed:
            raise Flaw(f"{failed} of {len(faults)} faults do not fit the tree.")
        began = time.monotonic()
        green(copy, faults)
        print(f"{time.monotonic() - began:5.1f} s  all named tests pass without a fault", flush=True)
        for fault in faults:
            began = time.monotonic()
            reason = verdict(copy, fault)
            failed += bool(reason)
            word = f"NOT CAUGHT: {reason}" if reason else "caught"
            print(f"{time.monotonic() - began:5.1f} s  {fault.name}  {word}", flush=True)
    print(f"{len(faults) - failed} passed, {failed} failed")
    return failed


def arguments(words: Sequence[str] | None = None) -> Mapping[str, Any]:
    """What was asked for."""
    about = "Faults of one line, and the tests that see them."
    parser = argparse.ArgumentParser("python tests/faults", description=about)
    parser.add_argument("table", nargs="?", type=Path, default=TABLE, help="a TOML table; default: today's tree")
    parser.add_argument("--tree", type=Path, default=TREE, help="the folder that has dbllm/ and tests/")
    parser.add_argument("--only", metavar="NAME", help="the faults with this in their name")
    return vars(parser.parse_args(words))


def main() -> int:
    asked = arguments()
    table: Path = asked["table"]
    if not table.exists() and (HERE / table).exists():
        table = HERE / table
    try:
        return 1 if told(table, asked["tree"].resolve(), asked["only"]) else 0
    except Flaw as flaw:
        print(flaw, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
