"""Imports that are made late: an interrupt in the middle of one costs that import, and nothing that comes after."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dbllm

ROOT = Path(dbllm.__file__).parent
EXTRAS = {"local", "cli", "langchain", "testing", "bulk", "spark"}  # they need more than the core, and load it at once
LOADED = {"asyncio"}  # a loop of it runs already where it is imported late

PACKAGE = {
    "halves/__init__.py": "from .first import one\nfrom .second import two",
    "halves/first.py": "one = 1",
    "halves/second.py": "import halves\ntwo = 2\nhalves.first.one",
}
PROGRAM = """
import builtins, sys
{guard}
sys.path.insert(0, {folder!r})

def interrupt(frame, event, argument):
    if event == "call" and frame.f_code.co_filename.endswith("{name}") and builtins.armed:
        builtins.armed = False
        sys.settrace(None)
        raise KeyboardInterrupt

builtins.armed = True
before = set(sys.modules)
sys.settrace(interrupt)
try:
    with WholeImport():
        import halves
except KeyboardInterrupt:
    pass
sys.settrace(None)
assert not builtins.armed
left = {{name for name in set(sys.modules) - before if name.startswith("halves")}}
try:
    import halves
    halves.first, halves.second
    print("whole", *left)
except AttributeError:
    print("broken", *left)
"""


@pytest.mark.parametrize("name", ["first.py", "second.py", "halves/__init__.py"])
@pytest.mark.parametrize("guarded", [True, False])
def test_what_an_interrupt_left_of_a_package_is_loaded_again(tmp_path: Path, name: str, guarded: bool) -> None:
    for path, text in PACKAGE.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    guard = "from dbllm._lazy import WholeImport"
    without = "from contextlib import nullcontext as WholeImport"
    program = PROGRAM.format(guard=guard if guarded else without, folder=str(tmp_path), name=name)
    command = [sys.executable, "-B", "-c", program]
    environment = {"PYTHONPATH": str(ROOT.parent)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    if guarded:
        assert said == ["whole"]
    elif name == "second.py":  # Python by itself: the first part stays, and nobody finds it
        assert said == ["broken", "halves.first"]


def test_every_late_import_of_another_package_is_a_whole_one() -> None:
    bare = []
    for path in sorted(ROOT.rglob("*.py")):
        module = path.relative_to(ROOT)
        if module.parts[0].removesuffix(".py") in EXTRAS | {"__main__", "dbutils", "deployments"}:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        late = [
            inner
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for inner in ast.walk(node)
            if isinstance(inner, (ast.Import, ast.ImportFrom))
        ]
        whole = [
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.With) and "WholeImport()" in ast.unparse(node.items[0])
            for inner in ast.walk(node)
        ]
        for node in late:
            own = isinstance(node, ast.ImportFrom) and node.level  # names of dbllm's are not looked for on a package
            if id(node) not in whole and not own and not {alias.name for alias in node.names} <= LOADED:
                bare.append(f"{module}, line {node.lineno}: {ast.unparse(node)}")
    assert not bare


INTERRUPTED = """
import signal, sys
import dbllm
from dbllm import Client, DbllmError, Retry

class Refusing:
    def handle_request(self, request):
        import httpx
        return httpx.Response(503, text="<html><h1>later</h1>")

    def close(self): ...

entered = 0

def interrupt(frame, event, argument):
    global entered
    if "/tenacity/" in frame.f_code.co_filename and frame.f_code.co_name == "<module>":
        entered += 1
        if entered == {at}:
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)

def once():
    try:
        client.endpoint("m").chat("x")
        return "an answer"
    except DbllmError as error:
        return type(error).__name__
    except BaseException as error:
        return repr(error)

client = Client("https://workspace.example.com", "t", transport=Refusing(), retry=Retry(attempts=2, backoff=0))
sys.settrace(interrupt)
first = once()
sys.settrace(None)
print(first, once(), sep="|")
"""


def test_a_retry_works_after_an_interrupt_in_the_first_one() -> None:
    """At the first, the second and later modules of what an error path loads."""
    environment = {"PYTHONPATH": str(ROOT.parent), "DBLLM_ENGINE": ""}
    seen = []
    for at in (1, 2, 4, 7):
        command = [sys.executable, "-B", "-c", INTERRUPTED.replace("{at}", str(at))]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
        seen.append(said.split("|"))
    assert {first for first, _ in seen} == {"KeyboardInterrupt()"}
    assert {after for _, after in seen} == {"InternalServerError"}
