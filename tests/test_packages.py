"""The packages: who may import whom, who waits, and how large a file may grow."""

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

GROUND = {"errors", "_urls", "_deadline", "_lazy", "_misnomers"}  # import nothing of dbllm; all may import them
MAY_IMPORT = {  # beside the ground; a package may also import from itself, without a cycle
    "_sync_client": {"_client", "_inference", "_management", "_backends", "_transport", "_auth", "_protocol"},
    "_client": {"_inference", "_management", "_auth", "_transport", "_backends", "_protocol", "_http.tls"},
    "_inference": {"_transport", "_backends", "_protocol"},
    "_management": {"_transport", "_backends", "_protocol"},
    "_transport": {"_auth", "_backends", "_http", "_protocol"},
    "_auth": {"_backends", "_http", "_protocol"},
    "_backends": {"_http"},
    "_http": set(),
    "_protocol": set(),
    **{module: set() for module in GROUND},
    "_misnomers": {"_lazy"},
    "errors": {"_lazy", "_misnomers"},  # its classes are pickled by their public places, which it looks for late
}
TYPES_ONLY = {"_sync_client": {"_transport", "_auth", "_protocol"}}  # imported for annotations alone
EXTRAS = {  # they use public names of dbllm, and what is said here
    "langchain": set(),
    "local": set(),
    "cli": {"local", "serve", "bulk", "_http.tls"},  # doctor tries the TLS handshake that the client would
    "deployments": set(),
    "dbutils": set(),
    "testing": {"local"},  # its module `workspaces` and the fixture of that name; elsewhere only what needs no extra
    "serve": {"local"},
    "bulk": set(),
    "otel": set(),
    "spark": {"bulk"},
}
LENT = {
    # what is said of a name that is another library's, or has a typing error in it
    **{
        name: {"_misnomers"}
        for name in ("bulk", "bulk.dry_run", "bulk.entry", "langchain", "local", "spark", "testing")
    },
    "bulk.row_stream": {"_misnomers"},
    **{f"spark.{name}": {"_misnomers"} for name in ("functions", "options", "query")},
    "local.running": {"_auth.local_workspace"},  # who writes the note of a running workspace, and who reads it
    # bulk repeats, limits and looks up as the core does, by the core's own decisions
    "bulk.failures": {"_transport.retry", "_transport.limited"},
    "bulk.scheduler": {"_transport.limits", "_transport.adaptive"},
    # a handle of a Client, looked up in a thread; what can be a tag
    "bulk.row_mapper": {"_backends.backend", "_misnomers", "_protocol.requests"},
    "spark.worker": {"_transport.limits", "_transport.adaptive"},  # each task's share, as bulk's scheduler keeps it
    "local.gateway.gateway": {"_protocol.sse"},  # a provider's stream is read by the decoder of the core
    "otel": {"_transport.call", "_misnomers"},  # whose `tracers` all clients of a process tell
    # a recording sees what every client of the process sends, and a replay answers it
    "testing.own_clients": {"_client", "_auth.local_workspace", "_backends", "_transport.transport"},
    "langchain.tools": {"_protocol.structured_output"},  # what is strict, is strict in the same way
}
ENTRIES = {"__init__", "__main__"}  # may import anything, when it is needed

MOST_LINES_OF_A_FILE = 250
MOST_LINES_OF_AN_EXTRA = 350
MOST_LINES = {  # of the whole core: what it was in one folder, and what each change since has added
    "the core before the packages": 4673,
    "imports of more files": 187,
    "generate, and Completion for every kind of endpoint": 49,
    "on_attempt": 48,
    "a pool and credentials for each origin": 32,
    "pickles by public paths": 20,
    "Client and Stream wrap their async twins and name themselves; httpcore is imported late": 129,
    "who may be sent twice; what others read and dbllm lost; deadlines of uploads": 300,
    "credentials that left their place; errors that said the wrong thing": 340,
    "streams, structured output and answers of servers that number nothing": 380,
    "finding the workspace that runs on this machine": 55,
    "the retry budget, the circuit breaker, hedging, stats": 330,
    "Limits: rates, tokens and adaptive concurrency": 440,
    "model services, Responses on models, agents on Apps, route-optimised endpoints, tags, fallbacks, httpx2": 1450,
    "whatever was sent and may be secret is taken out of errors, tracebacks and logs": 217,
    "mistakes: other libraries' names, and what to do instead": 375,
    "how long an attempt waited for a connection; streams end for hooks where they are read up": 15,
    "hooks of calls, streams, retries and tokens; middleware; a log by parts": 360,
    "a chat or a response without any event is no answer, though it ends with [DONE]": 6,
    "interrupts leave no socket and no module in part; parsers take linear time; each choice ends by itself": 329,
    "adaptive concurrency tells noise from load, and follows a quota of a minute": 31,
    "mistakes: replies as lists, keywords of calls, missing arguments; the words are in _misnomers.ini": 80,
    "replies, clients and lists show themselves; tables, series and arrays in and out; progress": 390,
    "less time: hooks, redaction and parsers come late, bodies without an encoder of their own": 69,
    "telemetry is told in few steps; hooks and middleware that never end are cancelled": 115,
    "an endpoint that a job does not find is told with those there are; counts have their noun": 9,
    "mistakes: options with typing errors, arguments by another verb's names, settings that are set too late": 32,
    "what to do where nothing listens on this machine; trust_env is a bool": 4,
    "adaptive concurrency: what noise looked like a quota is forgotten again": 12,
    "what servers compress many times or append without end; what they repeat; tokens that do not come": 88,
}

MODULES = {  # dotted name below dbllm: its file
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}
PACKAGE = {name: name.split(".")[0] for name in MODULES}
CORE = sorted(name for name in MODULES if PACKAGE[name] in MAY_IMPORT or name == "__init__")
EXTRA_MODULES = sorted(name for name in MODULES if PACKAGE[name] in EXTRAS)


def imports(name: str, *, for_types: bool = True) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, relative ones resolved; the name is "" for a plain `import module`."""
    package = ["dbllm", *name.split(".")]
    if MODULES[name].name != "__init__.py":
        package.pop()
    skipped = set() if for_types else set(_for_types(TREES[name]))
    for node in ast.walk(TREES[name]):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from ((module, alias.name) for alias in node.names)


def _for_types(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from (id(inner) for statement in node.body for inner in ast.walk(statement))


def own_imports(name: str, *, for_types: bool = True) -> set[str]:
    """The modules of dbllm that a module imports, by their dotted names; "" is dbllm itself."""
    found = set()
    for module, what in imports(name, for_types=for_types):
        if module == "dbllm" or module.startswith("dbllm."):
            inner = module.removeprefix("dbllm").removeprefix(".")
            deeper = f"{inner}.{what}".lstrip(".")
            found.add(deeper if deeper in MODULES else inner)
    return found


def outside(name: str) -> set[str]:
    return {module.split(".")[0] for module, _ in imports(name)} - {"dbllm"}


def test_every_module_has_a_rule() -> None:
    assert {PACKAGE[name] for name in MODULES} == MAY_IMPORT.keys() | EXTRAS.keys() | ENTRIES


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_of_the_core_imports_what_stands_under_it(package: str) -> None:
    allowed = MAY_IMPORT[package] | (set() if package in GROUND else GROUND)
    wrong = []
    for name in CORE:
        if PACKAGE[name] != package:
            continue
        for other in own_imports(name):
            if other.split(".")[0] not in {package, *allowed} and other not in allowed:
                wrong.append(f"{name} imports {other or 'dbllm'}")
    assert not wrong


def test_an_extra_uses_only_the_public_names() -> None:
    wrong = []
    for name in EXTRA_MODULES:
        allowed = EXTRAS[PACKAGE[name]] | LENT.get(name, set()) | {PACKAGE[name], "errors"}
        for module, what in imports(name):
            inner = module.removeprefix("dbllm").removeprefix(".")
            if module == "dbllm":
                public = what in dbllm.__all__ or what == "__version__" or what.split(".")[0] in allowed
                wrong += [] if public else [f"{name} imports {what}"]
            elif module.startswith("dbllm.") and inner.split(".")[0] not in allowed and inner not in allowed:
                wrong.append(f"{name} imports {inner}")
    assert not wrong


def test_the_imports_have_no_cycle() -> None:
    left = {name: own_imports(name, for_types=False) & MODULES.keys() - {name} for name in MODULES}
    while left:
        free = [name for name, needs in left.items() if not needs & left.keys()]
        assert free, f"a cycle among {sorted(left)}"
        for name in free:
            del left[name]


def test_a_private_package_says_in_one_docstring_what_it_is_for() -> None:
    for name, path in MODULES.items():
        exporting = ("__init__", "langchain", "local", "testing", "bulk", "otel", "spark")
        if path.name == "__init__.py" and name not in exporting:
            (only,) = TREES[name].body
            assert isinstance(only, ast.Expr), name


def test_the_core_never_imports_an_extra_even_by_its_name_as_a_text() -> None:
    for name in CORE:
        for node in ast.walk(TREES[name]) if name not in ("__init__", "errors") else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                assert not ast.unparse(node.args[0]).strip("'\"").startswith(("dbllm", ".")), name


def test_the_core_needs_only_its_dependencies() -> None:
    allowed = {"httpx", "httpcore", "h11", "pydantic", "anyio", "tenacity"} | set(sys.stdlib_module_names)
    extra = {  # asked for by verify="system" only; by type checkers, as_numpy() and as_pandas(); by the fast engine
        "_http.tls": {"truststore"},
        "_protocol.models": {"typing_extensions", "numpy", "pandas"},
        "_http.llhttp_parser": {"httptools"},
    }
    for name in CORE:
        assert outside(name) <= allowed | extra.get(name, set()), name


def users(module: str) -> set[str]:
    return {name for name in CORE if module in outside(name)}


def test_each_dependency_has_its_place() -> None:
    assert {PACKAGE[name] for name in users("anyio")} == {"_backends", "_http"}
    assert {PACKAGE[name] for name in users("httpx")} == {"_http", "_urls"}
    assert users("httpcore") == {"_http.httpcore_backend"}
    assert users("h11") == {"_http.h11_parser"}
    assert users("httptools") == {"_http.llhttp_parser"}
    assert users("tenacity") == {"_transport.retry"}
    assert {PACKAGE[name] for name in users("pydantic")} <= {"_protocol", "_transport", "_inference", "_management"}


WAITING = {"time", "asyncio", "trio", "select", "signal", "selectors", "concurrent", "multiprocessing"}
MAY_WAIT = {"_backends.backend", "_backends.aio", "_backends.blocking", "_http.sockets", "_http.blocking_socket"}
NAMED = {  # modules that name TLS contexts or sockets; the last runs the Databricks CLI, through the backend
    "_http.tls": {"ssl"},
    "_http.connection": {"ssl"},
    "_http.factory": {"ssl"},
    "_http.httpx_connection": {"ssl"},
    "_http.libraries": {"ssl"},
    "_http.httpcore_backend": {"ssl", "socket"},
    "_http.dialling": {"socket"},
    "_auth.external_tokens": {"subprocess"},
}


def test_only_the_backends_and_the_sockets_wait() -> None:
    for name in CORE:
        if name in MAY_WAIT:
            continue
        assert not outside(name) & WAITING, name
        assert not outside(name) & {"socket", "ssl", "queue", "subprocess"} - NAMED.get(name, set()), name
        assert "threading" not in outside(name) or name in ("_http.pool", "_transport.limits"), name  # locks alone
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.Attribute) and node.attr == "sleep":
                assert ast.unparse(node).endswith(("backend.sleep", "backend.sleep")), f"{name}, line {node.lineno}"


PURE = [name for name in CORE if PACKAGE[name] in {"_protocol", *GROUND}]
PURE += [
    "_http.parser",
    "_http.h11_parser",
    "_http.llhttp_parser",
    "_http.request",
    "_http.errors",
    "_http.decompression",
]
PURE += ["_management.external_models", "_auth.redaction", "_inference.chunks", "_inference.prompt"]


def test_decisions_are_plain_functions_that_wait_for_nothing() -> None:
    for name in PURE:
        for node in ast.walk(TREES[name]):
            assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith), (
                f"{name}, line {node.lineno}"
            )


def test_nothing_waits_inside_an_async_generator_that_a_caller_holds() -> None:
    """Streams are classes; the only async generators are the backends' lock contexts and lifetimes."""
    for name in CORE:
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.AsyncFunctionDef) and any(
                isinstance(inner, ast.Yield) for inner in ast.walk(node) if inner is not node
            ):
                assert PACKAGE[name] == "_backends", f"{name}.{node.name}"


def test_no_file_is_a_drawer_for_the_rest() -> None:
    for name, path in MODULES.items():
        assert path.stem not in {"utils", "util", "helpers", "common", "misc", "base", "core"}
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.ClassDef):
                assert not node.name.lstrip("_").startswith("Base"), f"{name}: {node.name}"


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


def test_files_are_short() -> None:
    counts = {name: lines_of_code(path) for name, path in MODULES.items()}
    assert {name: count for name, count in counts.items() if name in CORE and count > MOST_LINES_OF_A_FILE} == {}
    assert {name: count for name, count in counts.items() if count > MOST_LINES_OF_AN_EXTRA} == {}


def test_the_core_is_short() -> None:
    counts = {name: lines_of_code(MODULES[name]) for name in CORE}
    assert sum(counts.values()) <= sum(MOST_LINES.values()), counts


def test_every_file_says_in_its_first_line_what_it_is_for() -> None:
    for name, tree in TREES.items():
        said = ast.get_docstring(tree)
        assert said, name
        assert len(said.splitlines()[0]) > 15, name
