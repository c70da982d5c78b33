"""The house: each file of the core stands on lower floors only, waits in one place, and stays small."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import dbllm

ROOT = Path(dbllm.__file__).parent

FLOORS = {
    "errors": 0.0,
    "schema": 0.1,
    "answers": 0.2,
    "structured": 1.0,
    "sse": 1.0,
    "target": 1.0,
    "retry": 1.1,
    "judge": 1.1,
    "network": 1.1,
    "http1": 1.0,
    "fast": 1.1,  # the extra's parser
    "sockets": 1.1,
    "wire": 1.9,
    "engine": 2.0,
    "pool": 2.1,
    "io": 2.2,
    "plain": 2.3,
    "external": 1.15,
    "auth": 3.0,
    "profile": 3.1,
    "oauth": 3.1,
    "outside": 3.1,
    "sources": 3.2,
    "config": 3.3,
    "transport": 4.0,
    "stream": 4.1,
    "prompt": 4.2,
    "embeddings": 4.3,
    "together": 4.0,
    "apps": 4.9,
    "endpoints": 5.0,
    "control": 5.0,
    "serving": 5.05,
    "secrets": 5.05,
    "client": 5.1,
    "sync": 6.0,
    "__init__": 7.0,
}
EXTRAS = {
    "langchain", "deployments", "dbutils", "bulk", "spark", "local", "serve", "cli", "testing", "telemetry", "demo",
    "commands", "console", "endpoint_commands", "secret_commands", "doctor", "__main__", "mlflow",
}  # fmt: skip
FLOORS_LENT = {
    "doctor": {"network"},  # it tries the TLS handshake that the client would
    "gateway": {"sse"},  # a provider's stream is read by the decoder that reads the workspace's
}
MOST_LINES_OF_A_FILE = 250
MOST_LINES = 4673  # all there is: calls, auth, control plane, engines, the names of __init__; to be lowered

CORE = sorted(FLOORS)
TREES = {name: ast.parse((ROOT / f"{name}.py").read_text("utf-8")) for name in CORE}
EXTRA_FILES = sorted(
    path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0].removesuffix(".py") not in FLOORS
)


def imports(tree: ast.AST, package: str = "dbllm") -> Iterator[tuple[str, str]]:
    """(module, name) of every import, relative ones resolved; the name is "" for a plain `import module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from ((module, alias.name) for alias in node.names)


def own_imports(tree: ast.AST, package: str = "dbllm") -> set[str]:
    """The modules of dbllm that a file imports; those of a subpackage by its name."""
    found = set()
    for module, name in imports(tree, package):
        if module == "dbllm":
            found.add(name if name in FLOORS or name in EXTRAS else "__init__")
        elif module.startswith("dbllm."):
            found.add(module.split(".")[1])
    return found


def outside(tree: ast.AST) -> set[str]:
    return {module.split(".")[0] for module, _ in imports(tree)} - {"dbllm"}


def test_every_file_is_on_a_floor_or_an_extra() -> None:
    files = {
        path.stem if path.is_file() else path.name for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()
    }
    assert files - {"__pycache__"} <= set(FLOORS) | EXTRAS
    assert not set(FLOORS) & EXTRAS


@pytest.mark.parametrize("name", CORE)
def test_a_file_imports_from_lower_floors_only(name: str) -> None:
    for other in own_imports(TREES[name]):
        assert other in FLOORS, f"{name} imports the extra {other}"
        assert FLOORS[other] < FLOORS[name], f"{name} imports {other}, which is no lower floor"


def test_the_imports_have_no_cycle() -> None:
    left = {name: own_imports(tree) for name, tree in TREES.items()}
    while left:
        free = [name for name, needs in left.items() if not needs & left.keys()]
        assert free, f"a cycle among {sorted(left)}"
        for name in free:
            del left[name]


def test_the_core_never_imports_an_extra_even_by_its_name_as_a_text() -> None:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                assert not ast.unparse(node.args[0]).strip("'\"").startswith(("dbllm", ".")), name


@pytest.mark.parametrize("name", CORE)
def test_the_core_needs_only_its_four_dependencies(name: str) -> None:
    allowed = {"httpx", "httpcore", "h11", "pydantic", "anyio", "tenacity"} | set(sys.stdlib_module_names)
    # Asked for by verify="system" only; by type checkers, and as_numpy() only; by the fast engine.
    extra = {"network": {"truststore"}, "schema": {"typing_extensions", "numpy"}, "fast": {"httptools"}}.get(
        name, set()
    )
    assert outside(TREES[name]) <= allowed | extra


def users(module: str) -> set[str]:
    return {name for name, tree in TREES.items() if module in outside(tree)}


def test_each_dependency_has_its_rooms() -> None:
    assert users("anyio") == {"together", "engine", "io", "sockets", "wire"}
    assert users("httpx") == {"engine", "network", "wire"}
    assert users("httpcore") == {"engine"}
    assert users("h11") == {"http1", "wire"}
    assert users("httptools") == {"fast"}
    assert users("tenacity") == {"retry"}
    assert users("pydantic") <= {"schema", "answers", "structured", "target", "prompt", "control", "serving"}


@pytest.mark.parametrize("name", CORE)
def test_only_io_and_sockets_wait_and_only_io_and_the_pool_lock(name: str) -> None:
    used = outside(TREES[name])
    if name not in ("io", "sockets"):
        assert not used & {"time", "asyncio", "trio", "select", "signal", "selectors", "concurrent", "multiprocessing"}
        # network, engine and wire name TLS contexts, and engine shuts httpcore's sockets down; outside runs the
        # Databricks CLI, through the leaf.
        may = {"outside": {"subprocess"}, "network": {"ssl"}, "wire": {"ssl"}, "engine": {"ssl", "socket"}}.get(
            name, set()
        )
        assert not used & {"socket", "ssl", "queue", "subprocess"} - may
    if name not in ("io", "pool"):
        assert "threading" not in used
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and name != "io":
            assert ast.unparse(node) == "leaf.sleep", f"{name}, line {node.lineno}"


@pytest.mark.parametrize(
    "name", sorted({"errors", "schema", "answers", "structured", "sse", "target", "judge", "external", "http1"})
)
def test_decisions_are_plain_functions_that_wait_for_nothing(name: str) -> None:
    for node in ast.walk(TREES[name]):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith), node.lineno


@pytest.mark.parametrize("name", CORE)
def test_nothing_waits_inside_an_async_generator_that_a_caller_holds(name: str) -> None:
    """Streams are classes; the only async generators are io's lock contexts and its lifetimes."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.AsyncFunctionDef) and any(
            isinstance(inner, ast.Yield) for inner in ast.walk(node) if inner is not node
        ):
            assert name == "io", f"{name}.{node.name}"


@pytest.mark.parametrize("path", EXTRA_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_extra_uses_only_the_public_names(path: Path) -> None:
    package = ".".join(("dbllm", *path.relative_to(ROOT).parts[:-1]))
    for module, name in imports(ast.parse(path.read_text("utf-8")), package):
        if module == "dbllm":
            assert name in dbllm.__all__ or name in EXTRAS or not name, name
        elif module.startswith("dbllm."):
            ours = FLOORS_LENT.get(path.stem, set())
            assert module.split(".")[1] in EXTRAS | ours, f"{module}.{name}"


def test_no_file_is_a_drawer_for_the_rest() -> None:
    for path in ROOT.rglob("*.py"):
        assert path.stem not in {"utils", "util", "helpers", "common", "misc", "base", "core"}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert not node.name.lstrip("_").startswith("Base"), f"{path.name}: {node.name}"


def lines_of_code(path: Path) -> int:
    """Lines that hold code: no docstrings, comments or blanks."""
    text = path.read_text("utf-8")
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in quiet:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


@pytest.mark.parametrize("name", CORE)
def test_a_file_of_the_core_is_short(name: str) -> None:
    assert lines_of_code(ROOT / f"{name}.py") <= MOST_LINES_OF_A_FILE


def test_the_core_is_short() -> None:
    counts = {name: lines_of_code(ROOT / f"{name}.py") for name in CORE}
    assert sum(counts.values()) <= MOST_LINES, counts


def test_every_file_says_in_its_first_line_what_it_is_for() -> None:
    for path in ROOT.rglob("*.py"):
        said = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        assert said, path
        assert len(said.splitlines()[0]) > 15, path
