"""The real model: llama.cpp (through xllamacpp) around one GGUF file.

Everything that xllamacpp does not type or promise is dealt with here: its calls block, so each runs in a worker
thread; its errors come as exceptions or as dicts; its callback must never raise (the slot would stay taken).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from dbllm.local.errors import LocalError
from dbllm.local.extras import load

SLOTS = 4
CONTEXT = 4096
"""Tokens of prompt and answer together, per slot."""


class EngineRefused(ValueError):
    """The model cannot take this request (too long for its context, a bad schema ...)."""


class EngineStopped(RuntimeError):
    """The engine is closing, so this answer is not whole."""


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to make.

    Attributes:
        kind: "chat" puts `messages` into the model's template, "raw" continues `prompt` as it stands.
        request: what llama.cpp understands: messages or prompt, stop, temperature, max_tokens ...
    """

    kind: Literal["chat", "raw"]
    request: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one answer so far: of its prompt, of the text, and those of the prompt that were cached."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """The next bit of one answer.

    Attributes:
        job: which of the jobs it belongs to, from 0.
        text: what the model added; may be empty on the last piece.
        finish_reason: "stop" or "length" on the last piece, None before.
        tokens: counts so far.
        logprobs: entries as OpenAI shapes them, for the tokens of this piece.
    """

    job: int
    text: str
    finish_reason: str | None = None
    tokens: Tokens = Tokens()
    logprobs: tuple[Mapping[str, object], ...] = ()


Callback = Callable[[object], bool]


class LlamaServer(Protocol):
    """The part of `xllamacpp.Server` that is used."""

    def handle_chat_completions(self, body: dict[str, object], callback: Callback, /) -> object: ...
    def handle_completions(self, body: dict[str, object], callback: Callback, /) -> object: ...
    def handle_metrics(self) -> object: ...


def threads() -> int:
    """Threads to compute with: one fewer than there are cores.

    llama.cpp's threads spin while they wait for each other. With as many threads as cores, any other process (the
    client, say) makes them wait: on two cores 100 tokens/s fell to 6, while one thread kept 80 alone and 50 beside.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, cores - 1)


def load_llama(path: Path, *, slots: int, context: int) -> LlamaServer:
    """Load a GGUF file; takes a second or two for the default model.

    Raises:
        LocalError: no such file, or not a model llama.cpp can run.
    """
    if not path.is_file():
        raise LocalError(f"There is no model file {path}: name the path of a GGUF file, or none for SmolLM2.")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise LocalError(f"{path} is not a GGUF file, the only format the local engine reads.")
    xllamacpp = load("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.verbosity = -1
    params.use_jinja = True
    params.n_parallel = slots
    params.n_ctx = context * slots
    params.cpuparams.n_threads = threads()
    params.cpuparams_batch.n_threads = threads()
    params.endpoint_metrics = True
    # By default llama.cpp keeps the state of old prompts, up to 8 GiB of them: memory grew with every call.
    params.cache_ram_mib = 0
    # xllamacpp opens a port of its own on loopback. Nobody is told this key, so nobody but us gets an answer.
    params.api_keys = [secrets.token_urlsafe(32)]
    params.ui = False
    try:
        server: LlamaServer = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as error:
        raise LocalError(f"llama.cpp cannot load {path}: {error}") from error
    return server


class Engine:
    """A loaded model that makes up to `slots` answers side by side; further ones wait their turn.

    Raises:
        LocalError: the file is missing or is not a model.
    """

    def __init__(self, path: Path, *, slots: int = SLOTS, context: int = CONTEXT) -> None:
        self.path = path
        self._llama = load_llama(path, slots=slots, context=context)
        self._pool = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="dbllm-engine")
        self._closing = threading.Event()

    @property
    def name(self) -> str:
        """The model's name: the file's name without its ending."""
        return self.path.stem

    def generate(self, jobs: Sequence[Job]) -> Generation:
        """Start the jobs: `async with engine.generate(jobs) as pieces: async for piece in pieces: ...`.

        Leaving the block, for whatever reason, stops the model at its next token.

        Raises (while iterating):
            EngineRefused: the model cannot take the request.
            EngineStopped: the engine was closed meanwhile.
        """
        return Generation(self, jobs)

    def start(self, index: int, job: Job, emit: Callable[[Event], None], unwanted: threading.Event) -> Future[None]:
        """Run one job in a worker thread; `emit` gets its pieces, then the job's end."""
        return self._pool.submit(self._run, index, job, emit, unwanted)

    def _run(self, index: int, job: Job, emit: Callable[[Event], None], unwanted: threading.Event) -> None:
        refused: EngineRefused | None = None

        def stop_wanted() -> bool:
            return unwanted.is_set() or self._closing.is_set()

        def receive(chunk: object) -> bool:
            nonlocal refused
            try:
                if isinstance(chunk, dict):
                    refused = refused or read_refusal(chunk)
                    piece = read_chunk(index, chunk)
                    if piece is not None:
                        emit(piece)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                refused = EngineRefused(f"the engine sent something unreadable: {error!r}")
                return True
            return stop_wanted()

        if not stop_wanted():
            try:
                answer = self._call(job)(dict(job.request) | {"stream": True, "timings_per_token": True}, receive)
                refused = refused or read_refusal(answer)
            except (ValueError, RuntimeError, TypeError) as error:
                refused = EngineRefused(str(error))
        if refused is not None:
            emit(refused)
        elif self._closing.is_set():
            emit(EngineStopped("the model is shutting down"))
        else:
            emit(Done(index))

    def _call(self, job: Job) -> Callable[[dict[str, object], Callback], object]:
        return self._llama.handle_chat_completions if job.kind == "chat" else self._llama.handle_completions

    def metrics(self) -> dict[str, float]:
        """llama.cpp's own counters, such as `requests_processing` and `tokens_predicted_total`."""
        return read_metrics(str(self._llama.handle_metrics()))

    def close(self) -> None:
        """Stop all answers at their next token and wait for the worker threads. Closing twice is fine."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def interrupt(self) -> None:
        """Stop all answers at their next token, for good, without waiting."""
        self._closing.set()


@dataclass(frozen=True, slots=True)
class Done:
    """A job came to its end."""

    job: int


Event = Piece | Done | EngineRefused | EngineStopped


class Generation:
    """The pieces of one or several answers in the order the model makes them. Made by `Engine.generate`."""

    def __init__(self, engine: Engine, jobs: Sequence[Job]) -> None:
        self._engine = engine
        self._jobs = jobs
        self._unwanted = threading.Event()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._work: list[Future[None]] = []
        self._open = len(jobs)

    async def __aenter__(self) -> Generation:
        loop = asyncio.get_running_loop()

        def emit(event: Event) -> None:
            try:
                loop.call_soon_threadsafe(self._queue.put_nowait, event)
            except RuntimeError:  # the loop is closed: nobody reads any more
                self._unwanted.set()

        try:
            self._work = [self._engine.start(i, job, emit, self._unwanted) for i, job in enumerate(self._jobs)]
        except RuntimeError as error:
            self._unwanted.set()
            raise EngineStopped("the model is shutting down") from error
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._unwanted.set()
        for work in self._work:
            work.cancel()

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Piece:
        while self._open:
            event = await self._queue.get()
            if isinstance(event, Piece):
                return event
            if isinstance(event, Exception):
                raise event
            self._open -= 1
        raise StopAsyncIteration


def read_chunk(job: int, chunk: Mapping[str, Any]) -> Piece | None:
    """A piece out of one chunk of llama.cpp, chat or raw; None if it adds nothing."""
    choices = chunk.get("choices")
    if not choices:
        return None
    choice = choices[0]
    text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
    finish_reason = choice.get("finish_reason")
    if not text and finish_reason is None:
        return None
    timings = chunk.get("timings") or {}
    cached = int(timings.get("cache_n", 0))
    tokens = Tokens(cached + int(timings.get("prompt_n", 0)), int(timings.get("predicted_n", 0)), cached)
    logprobs = (choice.get("logprobs") or {}).get("content") or ()
    return Piece(job, text or "", finish_reason, tokens, tuple(logprobs))


def read_refusal(answer: object) -> EngineRefused | None:
    """The engine's refusal that an answer of llama.cpp holds, or None."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if error is None:
        return None
    return EngineRefused(str(error.get("message", error)) if isinstance(error, dict) else str(error))


def read_metrics(text: str) -> dict[str, float]:
    """Prometheus text to a dict, without the `llamacpp:` in front of the names."""
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {line[0].removeprefix("llamacpp:"): float(line[1]) for line in lines if len(line) == 2}
