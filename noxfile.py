"""Every check of this repository: `pip install nox && nox`, or one of them: `nox -s lint`.

Each session makes its own virtual environment anew, with the Python that runs nox.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "bare", "min_deps", "tests", "langchain", "clients", "fuzz"]
nox.options.error_on_external_run = True  # a tool of the machine must not stand in for one of the session

PYPROJECT = nox.project.load_toml("pyproject.toml")
CODE = ("dbllm", "examples", "tests", "noxfile.py")
LANGCHAIN = ("tests/langchain", "tests/examples")  # they have a session of their own
CLIENTS = "tests/clients"  # and so have these
NEED_EXTRAS = ("tests/auth", "tests/cli", "tests/control", "tests/local", CLIENTS, *LANGCHAIN)
TODAY = ("tests/test_import_cost.py",)  # a figure of today's versions: older ones of pydantic import more slowly

# Modules that need an extra are named here, not those of the core: one that is forgotten makes the check fail.
IMPORT_CORE = """
import importlib, pkgutil, dbllm
extras = {"__main__", "cli", "commands", "console", "demo", "doctor", "endpoint_commands", "fast", "secret_commands"}
extras |= {"langchain", "local", "serve", "testing"}
core = sorted({module.name for module in pkgutil.iter_modules(dbllm.__path__)} - extras)
for name in core:
    importlib.import_module(f"dbllm.{name}")
print("imported without extras:", *core)
"""


def group(*names: str) -> tuple[str, ...]:
    """The requirements of dependency groups."""
    return nox.project.dependency_groups(PYPROJECT, *names)


@nox.session
def lint(session: nox.Session) -> None:
    """Form and the common mistakes."""
    session.install(*group("lint"))
    session.run("ruff", "format", "--check", *CODE)
    session.run("ruff", "check", *CODE)


@nox.session
def types(session: nox.Session) -> None:
    """Types, by two checkers that find different things."""
    # pyright is a JavaScript program: with [nodejs] its runtime comes from the package index like everything else.
    session.install(".[fast,langchain,local]", *group("types", "test"), "pyright[nodejs]")
    session.run("mypy")
    session.run("pyright")
    # The oldest Python has no new langchain-core, so those classes are checked with the Python that runs this.
    old = [str(path) for path in Path("dbllm").iterdir() if path.name != "langchain" and holds_code(path)]
    session.run("pyright", "--pythonversion", "3.10", *sorted(old))


def holds_code(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").exists()


@nox.session
def bare(session: nox.Session) -> None:
    """The core works without extras, and the command says what it needs."""
    session.install(".")
    session.run("python", "-I", "-W", "error", "-c", IMPORT_CORE)
    said = session.run("dbllm", "--help", success_codes=[1], silent=True)
    if "pip install 'dbllm[" not in str(said) or "Traceback" in str(said):
        session.error(f"`dbllm` without its extra should say in one sentence what to install; it said: {said}")


@nox.session
def min_deps(session: nox.Session) -> None:
    """The core's tests, with the oldest dependencies that pyproject.toml allows."""
    if sys.version_info >= (3, 14):
        session.skip("the oldest pydantic that is allowed has no wheel for this Python")
    session.install(".", *group("test"), *oldest(PYPROJECT["project"]["dependencies"]))
    session.run("pytest", *(f"--ignore={path}" for path in (*NEED_EXTRAS, *TODAY)), *session.posargs)


def oldest(requirements: list[str]) -> list[str]:
    """`name>=1.2,<2` as `name==1.2`."""
    return [re.sub(r">=([^,]+).*", r"==\1", requirement) for requirement in requirements]


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, against the package as it would be installed."""
    session.install(".[local,fast]", *group("test"))
    session.run("pytest", *(f"--ignore={path}" for path in (CLIENTS, *LANGCHAIN)), *session.posargs)


@nox.session
def langchain(session: nox.Session) -> None:
    """The LangChain classes against LangChain's own standard tests, and the examples, on a local workspace."""
    session.install(".[langchain,local]", *group("test", "langchain"))
    # LangChain's coroutine tests have no mark; only the plugin that they bring knows these two settings.
    modes = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    session.run("pytest", *modes, *LANGCHAIN, *session.posargs)


@nox.session
def clients(session: nox.Session) -> None:
    """Other people's clients and servers with the workspace; `-- --write-table` writes the README's table anew."""
    session.install(".[local,fast]", *group("test", "clients"))
    session.install("--no-deps", *group("databricks-langchain"))
    # Two runs: an option of the first is unknown to the second, and their fixtures have the same names.
    session.run("pytest", "-p", "no:asyncio", CLIENTS, *session.posargs)
    session.run("pytest", "-p", "no:asyncio", "tests/local/test_real_apps.py")


@nox.session
def fuzz(session: nox.Session) -> None:
    """The workspace against its own OpenAPI document, for a minute: no 5xx, no hang."""
    session.install(".[local,fast]", *group("test", "fuzz"))
    session.run("pytest", "-s", "tests/local/test_document.py", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """What must hold for long: short-lived tokens under load, kills during writes, any request. It prints figures."""
    session.install(".[local,fast]", *group("test", "fuzz"))
    env = {"DBLLM_SOAK_SECONDS": "60"}
    session.run(
        "pytest", "-s", "--timeout=600", "tests/auth/test_refresh.py", "-k", "live_on_tokens", *session.posargs, env=env
    )
    long = ("tests/local/test_kill.py", "tests/local/test_document.py")  # 20 kills, and five minutes
    session.run("pytest", "-s", *long, *session.posargs, env={"DBLLM_SOAK": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """What calls cost, beside other clients; `nox -s bench -- --short` is one round."""
    session.install(".[fast]", *group("bench", "clients"))
    session.install("--no-deps", *group("databricks-langchain"))
    session.run("python", "tests/bench", *session.posargs)
