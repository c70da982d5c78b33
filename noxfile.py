# /// script
# dependencies = [
#     "argcomplete==3.7.2",
#     "attrs==26.1.0",
#     "colorama==0.4.6 ; sys_platform == 'win32'",
#     "colorlog==6.12.0",
#     "dependency-groups==1.3.2",
#     "distlib==0.4.4",
#     "filelock==4.1.0 ; python_full_version < '3.11'",
#     "filelock==4.3.1 ; python_full_version >= '3.11'",
#     "humanize==4.16.0 ; python_full_version < '3.11'",
#     "humanize==4.17.0 ; python_full_version >= '3.11'",
#     "nox==2026.10.20",
#     "packaging==26.4",
#     "platformdirs==4.12.4 ; python_full_version < '3.11'",
#     "platformdirs==4.14.8 ; python_full_version >= '3.11'",
#     "python-discovery==1.9.6",
#     "tomli==2.5.0 ; python_full_version < '3.11'",
#     "typing-extensions==4.16.0 ; python_full_version < '3.11'",
#     "uv==0.13.9",
#     "virtualenv==21.15.11",
# ]
# ///
"""Every check of this repository: `pip install nox && nox`, or one of them: `nox -s lint`.

Each session makes an environment of its own, with the Python that runs nox, of the exact versions in
tests/requirements. By the list above nox first installs a fixed version of itself, and uv, which is quick at this.
`nox -s lock` makes all of these versions anew; `nox -s newest` leaves them aside and tells what upstream changed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests", "langchain"]
nox.options.default_venv_backend = "uv"
nox.options.error_on_external_run = True  # a tool of the machine must not stand in for one of the session

# uv reads none of pip's settings; who needs them to reach a package index needs them here too.
for pips, uvs in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_CERT", "SSL_CERT_FILE")):
    if pips in os.environ:
        os.environ.setdefault(uvs, os.environ[pips])

PYPROJECT = nox.project.load_toml("pyproject.toml")
LOCKS = Path("tests", "requirements")
OLDEST_PYTHON = PYPROJECT["project"]["requires-python"].removeprefix(">=")

CODE = ("dbllm", "examples", "tests", "noxfile.py")
LANGCHAIN = ("tests/langchain", "tests/examples")  # they have a session of their own
CLIENTS = "tests/clients"  # and so have these
MORE_CLIENTS = "tests/clients/more"  # and these
NEW_CLIENTS = "tests/clients/new"  # and these
BROWSER = "tests/browser"  # and these, which need Chromium
NOTEBOOK = "tests/notebook"  # and these, which start a kernel
SPARK = "tests/spark"  # and these, which need Java
FRAMEWORKS = "tests/frameworks"  # and these, which need Ray, Dask and Daft
OWN_SESSION = (CLIENTS, BROWSER, NOTEBOOK, SPARK, FRAMEWORKS, *LANGCHAIN)
NEED_EXTRAS = ("tests/auth", "tests/cli", "tests/management", "tests/local", *OWN_SESSION)

RELEASE = "tests/release/release.py"
SLOW = "tests/backends"  # each test is a program of its own

# Two processes, and a file's tests in one of them: a file's fixtures are made once.
PARALLEL = ("-n", "2", "--dist", "loadfile")
# pytest-asyncio runs LangChain's coroutine tests, which have no mark, and it alone knows the settings of AUTO. Our own
# are run by tests/conftest.py on three kinds of client, without that plugin.
OURS = ("-p", "no:asyncio")
AUTO = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")

# Every private module and `errors` are the core and come without extras, but for the parser of the extra `fast`. Of the
# others each does too, or says what to install. `-I` keeps the checkout out of it.
IMPORT_CORE = """
import importlib, pathlib, pkgutil
import dbllm

assert "site-packages" in dbllm.__file__, dbllm.__file__
assert pathlib.Path(dbllm.__file__).with_name("py.typed").is_file(), "py.typed is not in the wheel"

def load(name, private):
    if name == "dbllm._http.llhttp_parser":
        return
    try:
        module = importlib.import_module(name)
    except Exception as error:
        if private or "pip install 'dbllm[" not in str(error):
            raise
        print(f"{name} needs an extra, and says so: {error}")
        return
    print("without extras:", name)
    for child in pkgutil.iter_modules(getattr(module, "__path__", ())) if private else ():
        load(f"{name}.{child.name}", private)

for module in pkgutil.iter_modules(dbllm.__path__):
    core = module.name == "errors" or module.name.startswith("_") and module.name != "__main__"
    load(f"dbllm.{module.name}", private=core)
"""


def install(session: nox.Session, *locks: str, package: bool = True) -> None:
    """The versions of lock files, and nothing else; with `package` also dbllm, as a user would have it."""
    session.install("--no-deps", *(word for lock in locks for word in ("-r", str(LOCKS / f"{lock}.txt"))))
    if package:
        # uv would take the wheel that it built last time, whatever changed since, had it not to install it again.
        session.install("--no-deps", "--reinstall-package", "dbllm", *fixed_build(), ".")


def fixed_build() -> tuple[str, ...]:
    """The options of uv that fix what builds the package."""
    return ("--build-constraints", str(LOCKS / "build.txt"))


def without(*paths: str) -> tuple[str, ...]:
    """The options of pytest that leave paths out."""
    return tuple(f"--ignore={path}" for path in paths)


# --- what `nox` runs --------------------------------------------------------------------------------------------------


@nox.session
def lint(session: nox.Session) -> None:
    """Form and the common mistakes."""
    install(session, "check", package=False)
    run_lint(session)


def run_lint(session: nox.Session) -> None:
    session.run("ruff", "format", "--check", *CODE)
    session.run("ruff", "check", *CODE)


@nox.session
def types(session: nox.Session) -> None:
    """Types, by two checkers that find different things."""
    install(session, "check", package=False)
    run_types(session)
    # The oldest Python has no new langchain-core, so those classes are checked with the Python that runs this.
    old = [str(path) for path in Path("dbllm").iterdir() if path.name != "langchain" and holds_code(path)]
    session.run("pyright", "--pythonversion", OLDEST_PYTHON, *sorted(old))
    session.run("python", "tests/typing/hover.py")


def holds_code(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").exists()


def run_types(session: nox.Session) -> None:
    session.run("mypy")
    session.run("pyright")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests but LangChain's, against the package as it would be installed."""
    install(session, "check")
    session.run("pytest", *OURS, *PARALLEL, *without(*OWN_SESSION), *session.posargs)


@nox.session
def langchain(session: nox.Session) -> None:
    """The LangChain classes against LangChain's own standard tests, and the examples, on a local workspace."""
    install(session, "check")
    session.run("pytest", *PARALLEL, *AUTO, *LANGCHAIN, *session.posargs)


# --- what one runs after each edit ------------------------------------------------------------------------------------


@nox.session(default=False, reuse_venv=True)
def quick(session: nox.Session) -> None:
    """Form, types by mypy and the core's tests, in an environment that stays: in a minute or so."""
    install(session, "check", package=False)
    session.install("--no-deps", *fixed_build(), "-e", ".")
    run_lint(session)
    session.run("mypy")
    session.run("pytest", *OURS, *PARALLEL, "-q", *without(SLOW, *NEED_EXTRAS), *session.posargs)


# --- what `.ci/run` adds ----------------------------------------------------------------------------------------------


@nox.session
def bare(session: nox.Session) -> None:
    """The core works without extras, of the wheel that a release would be, and the command says what it needs."""
    built = Path(session.create_tmp()) / "dist"
    # The wheel is built of the sdist, so that has all that it needs.
    session.run("uv", "build", "--quiet", "--clear", "--out-dir", str(built), *fixed_build())
    (wheel,) = built.glob("*.whl")
    session.run("python", RELEASE, "--check", str(built))
    install(session, "bare", package=False)
    session.install("--no-deps", "--reinstall-package", "dbllm", str(wheel))
    session.run("uv", "pip", "check")
    session.run("python", "-I", "-W", "error", "-c", IMPORT_CORE)
    said = session.run("dbllm", "--help", success_codes=[1], silent=True)
    if "pip install 'dbllm[" not in str(said) or "Traceback" in str(said):
        session.error(f"`dbllm` without its extra should say in one sentence what to install; it said: {said}")


@nox.session
def min_deps(session: nox.Session) -> None:
    """The core's tests, with the oldest dependencies that pyproject.toml allows."""
    if sys.version_info >= (3, 14):
        session.skip("the oldest pydantic that is allowed has no wheel for this Python")
    install(session, "oldest")
    session.run("pytest", *PARALLEL, *without(*NEED_EXTRAS), *session.posargs)


@nox.session
def clients(session: nox.Session) -> None:
    """Other people's clients and servers with the workspace; `-- --write-table` writes the README's table anew."""
    install(session, "clients", "clients-no-deps")
    # Two runs: an option of the first is unknown to the second, and their fixtures have the same names.
    session.run("pytest", *OURS, *without(MORE_CLIENTS, NEW_CLIENTS), CLIENTS, *session.posargs)
    session.run("pytest", *OURS, "tests/local/test_real_apps.py")


@nox.session
def clients_more(session: nox.Session) -> None:
    """Frameworks of Python and Node.js with the workspace; `-- --write-table` writes their table of the README anew."""
    install(session, "clients-more")
    node = Path(session.create_tmp(), "node").resolve()
    shutil.copytree(MORE_CLIENTS + "/node", node, dirs_exist_ok=True)
    session.run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", f"--prefix={node}", external=True)
    session.run("pytest", *OURS, MORE_CLIENTS, *session.posargs, env={"DBLLM_NODE": str(node)})


@nox.session
def browser(session: nox.Session) -> None:
    """The page at the workspace's address in Chromium: apt-get install chromium chromium-driver."""
    install(session, "browser")
    session.run("pytest", *OURS, BROWSER, *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """The workspace against its own OpenAPI document, for a minute and a half: no 5xx, no hang."""
    install(session, "fuzz")
    session.run("pytest", "-s", "tests/local/test_document.py", *session.posargs)


@nox.session
def reliability(session: nox.Session) -> None:
    """What is promised under faults; DBLLM_LONG=1: for hours. `-- --write-table` writes the README's table anew."""
    install(session, "check")
    notes = Path(session.create_tmp()).resolve() / "figures"
    notes.write_text("")
    rest = [word for word in session.posargs if word != "--write-table"]
    session.run("pytest", *OURS, *PARALLEL, "tests/reliability", *rest, env={"DBLLM_FIGURES": str(notes)})
    write = ("--write", str(notes)) if "--write-table" in session.posargs else ()
    session.run("python", "tests/reliability/figures.py", *write)


# --- what takes long or needs a quiet machine -------------------------------------------------------------------------


@nox.session
def soak(session: nox.Session) -> None:
    """What must hold for long: short-lived tokens under load, kills during writes, any request. It prints figures."""
    install(session, "fuzz")
    env = {"DBLLM_SOAK_SECONDS": "60"}
    session.run(
        "pytest", "-s", "--timeout=600", "tests/auth/test_refresh.py", "-k", "live_on_tokens", *session.posargs, env=env
    )
    long = ("tests/local/test_kill.py", "tests/local/test_document.py")  # 20 kills, and five minutes
    session.run("pytest", "-s", *long, *session.posargs, env={"DBLLM_SOAK": "1"})


@nox.session
def faults(session: nox.Session) -> None:
    """What becomes of calls when the other side fails in every way."""
    install(session, "check")
    session.run("python", "tests/faults", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """What calls cost, beside other clients (`-- --short`: one round) or beside another tree (`-- --against TREE`)."""
    install(session, "clients", "clients-no-deps")
    if "--against" not in session.posargs:
        session.run("pytest", "-s", "-m", "speed", *OURS, *without(*OWN_SESSION))
        session.run("pytest", "-s", "-m", "speed", *AUTO, *LANGCHAIN)
    session.run("python", "tests/bench", *session.posargs)


@nox.session
def bulk(session: nox.Session) -> None:
    """Bulk jobs: killed twenty times, crashing at every system call, cut and damaged; with Parquet. Some minutes."""
    install(session, "bulk")
    session.run("pytest", *OURS, "-s", "--timeout=900", "tests/bulk", *session.posargs, env={"DBLLM_BULK": "thorough"})


# --- upstream ---------------------------------------------------------------------------------------------------------


@nox.session
def newest(session: nox.Session) -> None:
    """Types and tests with the newest release of everything; red here means that upstream changed."""
    everyday = nox.project.dependency_groups(PYPROJECT, "test", "httpx2", "langchain", "types")
    session.install("--upgrade", "--reinstall-package", "dbllm", ".[fast,langchain,local]", *everyday)
    run_types(session)
    session.run("pytest", *OURS, *PARALLEL, *without(*OWN_SESSION), *session.posargs)
    session.run("pytest", *PARALLEL, *AUTO, *LANGCHAIN, *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Makes the files of exact versions anew, of the newest releases that go together, for every Python we support."""
    core = ("pyproject.toml",)
    local = (*core, "--extra=fast", "--extra=local")
    resolve(session, LOCKS / "build.txt", "--group=build")
    resolve(
        session,
        LOCKS / "check.txt",
        *local,
        "--extra=langchain",
        "--extra=otel",
        *groups("test", "httpx2", "langchain", "lint", "types"),
    )
    otel = ("--extra=fast", "--extra=otel", "--extra=langchain")
    resolve(session, LOCKS / "otel.txt", *core, *otel, *groups("test", "langchain", "otel"))
    resolve(session, LOCKS / "bulk.txt", *local, "--extra=bulk", *groups("test"))
    resolve(session, LOCKS / "spark.txt", *local, "--extra=spark", *groups("test", "spark"))
    resolve(session, LOCKS / "spark35.txt", *local, "--extra=spark", *groups("test", "spark35"))
    resolve(session, LOCKS / "frameworks.txt", *local, *groups("test", "frameworks"))
    resolve(session, LOCKS / "bare.txt", *core)
    oldest = Path(session.create_tmp()) / "oldest.txt"
    oldest.write_text("\n".join(at_its_oldest(one) for one in PYPROJECT["project"]["dependencies"]))
    resolve(session, LOCKS / "oldest.txt", *core, *groups("test"), "--constraints", str(oldest))
    resolve(session, LOCKS / "fuzz.txt", *local, *groups("test", "fuzz"))
    resolve(session, LOCKS / "browser.txt", *local, *groups("test", "browser"))
    resolve(session, LOCKS / "clients.txt", *local, *groups("test", "langchain", "clients", "bench"))
    resolve(session, LOCKS / "clients-no-deps.txt", *groups("databricks-langchain"), "--no-deps")
    resolve(session, LOCKS / "clients-more.txt", *local, *groups("test", "clients-more"))
    resolve(session, LOCKS / "clients-new.txt", *local, *groups("test", "clients-new"))
    resolve(session, LOCKS / "docs.txt", *local, *extras("langchain", "otel", "testing"), *groups("docs"))
    resolve(session, LOCKS / "notebook.txt", *local, "--extra=langchain", *groups("test", "notebook"))
    node = ("--package-lock-only", "--ignore-scripts", "--omit-lockfile-registry-resolved", "--no-audit", "--no-fund")
    session.run("npm", "update", *node, f"--prefix={MORE_CLIENTS}/node", external=True, silent=True)

    pins = Path(session.create_tmp()) / "nox.txt"
    resolve(session, pins, *groups("nox"))
    lines = [line for line in pins.read_text("utf-8").splitlines() if not line.startswith("#")]
    here = Path(__file__)
    before, _, rest = here.read_text("utf-8").partition("# dependencies = [\n")
    after = rest[rest.index("# ]\n") :]
    here.write_text(f"{before}# dependencies = [\n" + "".join(f'#     "{line}",\n' for line in lines) + after, "utf-8")


def groups(*names: str) -> list[str]:
    """The options of uv that name dependency groups."""
    return [f"--group={name}" for name in names]


def extras(*names: str) -> list[str]:
    """The options of uv that name extras."""
    return [f"--extra={name}" for name in names]


def at_its_oldest(requirement: str) -> str:
    """`name>=1.2,<2` as `name==1.2`."""
    return re.sub(r">=([^,]+).*", r"==\1", requirement)


def resolve(session: nox.Session, file: Path, *what: str) -> None:
    """Writes the versions that go together, for every Python from the oldest on, without a word of where they lie."""
    options = ("--universal", "--python-version", OLDEST_PYTHON, "--upgrade", "--quiet", "--no-annotate")
    header = ("--custom-compile-command", "nox -s lock")
    session.run("uv", "pip", "compile", *options, *header, *what, "--output-file", str(file))


@nox.session
def clients_new(session: nox.Session) -> None:
    """Clients on httpx2 with the workspace's newer paths; `-- --write-table` writes their table of the README anew."""
    install(session, "clients-new")
    session.run("pytest", *OURS, NEW_CLIENTS, *session.posargs)


@nox.session
def notebook(session: nox.Session) -> None:
    """The example notebook from top to bottom in a real kernel, on the local workspace that it starts."""
    install(session, "notebook")
    session.run("pytest", *OURS, "--timeout=600", NOTEBOOK, *session.posargs)


@nox.session(venv_backend="none")
def stranger(session: nox.Session) -> None:
    """A stranger's first hour: the README's lines in order, from a clone to an answered cell of the notebook."""
    session.run(sys.executable, "tests/notebook/stranger.py", external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The reference of all public names, from their docstrings: site/index.html, or `-- FOLDER`."""
    install(session, "docs")
    session.run("python", "-W", "error", "tests/docs/reference.py", *(session.posargs or ["site"]))


@nox.session(venv_backend="none")
def release(session: nox.Session) -> None:
    """A release: `-- 0.2.0` checks, builds, commits and tags it; `-- 0.2.0 --dry-run` keeps nothing of that."""
    session.run(sys.executable, RELEASE, *session.posargs, external=True, env={"UV": nox.virtualenv.UV})


@nox.session
def telemetry(session: nox.Session) -> None:
    """Spans and metrics beside other instrumentations and MLflow, and what they cost a call."""
    install(session, "otel")
    session.run("pytest", *OURS, "tests/otel", *session.posargs)
    session.run("python", "tests/bench/telemetry.py")


@nox.session
def spark(session: nox.Session) -> None:
    """Tables on PySpark 4, classic and Connect (apt-get install openjdk-17-jre-headless); DBLLM_SPARK_LONG=1: large."""
    install(session, "spark")
    session.run("pytest", *OURS, "-s", SPARK, *session.posargs)
    session.run("pytest", *OURS, "-s", SPARK, *session.posargs, env={"DBLLM_SPARK": "connect"})


@nox.session
def spark35(session: nox.Session) -> None:
    """The same on PySpark 3.5, the oldest that is promised."""
    if sys.version_info >= (3, 12):
        session.skip("PySpark 3.5 is promised for Python 3.10 and 3.11, as its own tests are")
    install(session, "spark35")
    session.run("pytest", *OURS, "-s", SPARK, *session.posargs)


@nox.session
def frameworks(session: nox.Session) -> None:
    """The recipes for Ray Data, Dask and Daft: 500 rows, one of them bad, none lost."""
    install(session, "frameworks")
    session.run("pytest", *OURS, FRAMEWORKS, *session.posargs)
