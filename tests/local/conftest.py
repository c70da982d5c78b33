"""One real model and one running workspace for all tests of this folder: loading is what takes time."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from dbllm.local.app import create_workspace_app
from dbllm.local.http.server import WebServer, listen
from dbllm.local.model.embeddings import Vectors
from dbllm.local.model.llama import Engine
from dbllm.local.model.weights import default_model
from dbllm.local.storage.identity import new_identity

DEADLINE = 20.0

Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture(scope="session")
def model() -> Path:
    return default_model()


@pytest.fixture(scope="session")
def noting_home(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where workspaces leave word of themselves; the model stays in the cache of the one that is the user's."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _no_word_in_the_users_home(monkeypatch: pytest.MonkeyPatch, noting_home: Path) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(noting_home))


@pytest.fixture(scope="session")
def engine(model: Path) -> Iterator[Engine]:
    made = Engine(model)
    yield made
    made.close()


@pytest.fixture(scope="session")
def workspace(engine: Engine) -> Iterator[SimpleNamespace]:
    """A workspace that is up: its `host`, `identity` and `engine`."""
    identity = new_identity()
    sock = listen("127.0.0.1", 0, hint="")
    host = f"http://127.0.0.1:{sock.getsockname()[1]}"
    server = WebServer(create_workspace_app(engine, Vectors(), identity), sock)
    server.start()
    yield SimpleNamespace(host=host, identity=identity, engine=engine)
    server.stop()


@pytest.fixture(scope="session")
def http(workspace: SimpleNamespace) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {workspace.identity.token}"}
    with httpx.Client(base_url=workspace.host, headers=headers, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Wait until something holds, with a deadline."""

    def wait(holds: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < end, "it did not come about in time"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def other_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 with the weights of its first normalisation in reverse: still a model, but not the same one."""
    raw = bytearray(model.read_bytes())
    first_norm, floats = 1_785_664 + 30_081_024, 576
    values = struct.unpack_from(f"<{floats}f", raw, first_norm)
    assert all(-100 < value < 100 for value in values), "these are not the weights of the normalisation"
    struct.pack_into(f"<{floats}f", raw, first_norm, *reversed(values))
    path = tmp_path_factory.mktemp("model") / "other-model.gguf"
    path.write_bytes(raw)
    return path
