"""The pytest plugin: the fixtures `scripted`, `recorded` and `workspace`, imported when a test asks for one.

Scope: `scripted` is made anew for each test, at a port of its own, so that tests which run at once in several
processes (pytest-xdist) do not meet; for tasks at once within a test there is `scripted.scope()`. `workspace` lives as
long as the session, once in each process.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dbllm.local import Workspace
    from dbllm.testing.recorder import Recorder
    from dbllm.testing.scripted_server import Scripted

_JOURNALS = pytest.StashKey[list[Any]]()


@pytest.fixture
def scripted(request: pytest.FixtureRequest) -> Iterator[Scripted]:
    """A workspace whose models answer what this test writes; dbllm's clients use it, however they are configured.

    A call that no answer was written for makes the test fail.
    """
    from dbllm.testing.scripted_server import Scripted

    made = Scripted()
    request.node.stash.setdefault(_JOURNALS, []).append(made)
    with made.running():
        yield made


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the fixture `recorded` does."""
    group = parser.getgroup("dbllm")
    group.addoption(
        "--dbllm-record",
        choices=("once", "replay", "none"),
        help="recordings: `once` replays the file, or records it where there is none; `replay` never records (default "
        "where CI is set, else `once`); `none` does neither and calls the workspace",
    )


def recording_name(nodeid: str) -> str:
    """The name of a test's file: its classes, its name and its parameters; with a number where that is not exact."""
    name = ".".join(nodeid.split("::")[1:]).replace("[", "-").replace("]", "")
    plain = re.sub(r"[^\w.-]+", "-", name)[:100]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    """Records what this test sends to the workspace of the environment, or replays it from a file that lies beside it.

    The file is `recordings/<test file>/<test>.json`. A request that is not in it makes the test fail.
    """
    from dbllm.testing.recorder import Recorder

    mode: Any = request.config.getoption("--dbllm-record", None) or ("replay" if os.environ.get("CI") else "once")
    path = request.path.parent / "recordings" / request.path.stem / f"{recording_name(request.node.nodeid)}.json"
    try:
        made = Recorder(path, mode)
    except ValueError as error:
        pytest.fail(str(error), pytrace=False)
    request.node.stash.setdefault(_JOURNALS, []).append(made)
    with made.running():
        yield made


@pytest.fixture(scope="session", name="workspace")
def local_workspace() -> Iterator[Workspace]:
    """A workspace on this machine with a real small model; clients that are made without a host use it.

    Its tests are skipped where the extra `local` is not installed.
    """
    from dbllm.local import LocalError
    from dbllm.local.extras import load

    try:
        load("dbllm.local.workspace")
        load("xllamacpp")
    except LocalError as error:
        pytest.skip(f"the fixture `workspace` runs a model on this machine. {error}")
    from dbllm.testing.workspaces import workspace as started

    with started() as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A call that no answer was written for fails its test, also where the code under test swallows the error."""
    try:
        result = yield
    except BaseException:
        for made in item.stash.get(_JOURNALS, ()):
            if said := "\n".join(filter(None, (made.problem(), made.journal()))):
                item.add_report_section("call", "dbllm", said)
        raise
    for made in item.stash.get(_JOURNALS, ()):
        if said := made.problem():
            pytest.fail(said, pytrace=False)
    return result
