"""What a function of yours does when the model behind it fails: it is run once for each fault of a catalogue.

from dbllm import Client
from dbllm.testing import assert_resilient

def answer() -> str:
    with Client(timeout=5) as client:
        return client.endpoint("any").chat("hello").text

print(assert_resilient(answer))
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import anyio.lowlevel

from dbllm import AsyncClient, Client, DbllmError
from dbllm.testing.journal import ModelCall
from dbllm.testing.resilience_faults import CATALOGUE, TOO_EARLY, ResilienceFault
from dbllm.testing.scripted_answers import is_number
from dbllm.testing.scripted_server import Scripted
from dbllm.testing.server import ServerSettings

Outcome = Literal["value", "accepted", "typed error", "wrong value", "crash", "hang", "not met", "no call"]
_BAD: Collection[Outcome] = ("wrong value", "crash", "hang", "no call")
_GRACE = 1.0  # seconds for a function that hangs to end, once its connections are closed
_STORM = 10  # requests for one fault


@dataclass(frozen=True, slots=True)
class ResilienceRow:
    """What the function did in one fault.

    Attributes:
        fault: its name.
        outcome: "value" (the same as without faults), "accepted" (another, which `accept` takes), "typed error",
            "wrong value", "crash" (another exception), "hang", "not met" (the function never came to it), or "no call"
            (it called another address than this run's, or nothing).
        requests: how many it sent.
        seconds: how long it took; waits between attempts of dbllm's clients count, though they are skipped.
        detail: the value or the error.
        flaw: what is wrong with how it tried again; "" if nothing is.
    """

    fault: str
    outcome: Outcome
    requests: int
    seconds: float
    detail: str = ""
    flaw: str = ""

    @property
    def ok(self) -> bool:
        """Whether the function survived."""
        return self.outcome not in _BAD and not self.flaw


@dataclass(frozen=True, slots=True)
class ResilienceReport:
    """What `assert_resilient` found; `str()` is a table."""

    rows: tuple[ResilienceRow, ...]

    @property
    def ok(self) -> bool:
        """Whether the function survived every fault."""
        return all(row.ok for row in self.rows)

    def __getitem__(self, fault: str) -> ResilienceRow:
        return next(row for row in self.rows if row.fault == fault)

    def __str__(self) -> str:
        head = ("", "fault", "outcome", "requests", "seconds", "detail")
        cells = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(5)]
        lines = [
            "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[5]]) for row in cells
        ]
        return "\n".join(line.rstrip() for line in lines)


def _cells(row: ResilienceRow) -> tuple[str, ...]:
    mark = "ok" if row.ok else "FAIL"
    detail = f"{row.flaw}; {row.detail}" if row.flaw else row.detail
    return mark, row.fault, row.outcome, str(row.requests), f"{row.seconds:.1f}", detail


def assert_resilient(
    function: Callable[..., Any],
    *,
    script: Callable[[Scripted], object] | None = None,
    faults: Collection[str] | None = None,
    accept: Callable[[Any], bool] | None = None,
    typed: type[BaseException] | tuple[type[BaseException], ...] = DbllmError,
    seconds: float = 5.0,
    backend: Literal["asyncio", "trio"] = "asyncio",
) -> ResilienceReport:
    """Run a function once without faults and once in each fault; fail with a table if it does not survive all.

    It survives with the value that it has without faults, with one that `accept` takes, or with a typed error. It does
    not if it returns another value, raises another exception, hangs, sends a request again before the server's hint or
    after a 4xx, sends more than 10 for one fault, or calls an earlier run's address: each run has a workspace of its
    own, so the function must make its client itself. Waits of dbllm's clients between attempts are skipped.

    Args:
        function: sync or async; a generator is read to its end. dbllm's clients call the scripted workspace however
            they are configured, others find it by the environment; if it takes an argument, it gets the `Scripted`,
            with `host`, `token` and `openai_base_url`.
        script: writes the answers without faults. Default: every call gets "The answer is 42.".
        faults: names from `RESILIENCE_FAULTS`; default: all.
        accept: says of a value other than the usual one whether it is right, as an apology would be.
        typed: the errors that callers of the function expect.
        seconds: how long it may take for one fault. A longer time-out in the function counts as a hang.
        backend: runs async functions.

    Raises:
        AssertionError: with the table; or the function fails without any fault.
        ValueError: there is no such fault, or an argument is of the wrong kind.
    """
    __tracebackhide__ = True
    names = list(CATALOGUE) if faults is None else [faults] if isinstance(faults, str) else list(faults)
    _check_arguments(function, script, accept, typed, seconds, backend)
    if unknown := [name for name in names if name not in CATALOGUE]:
        raise ValueError(f"there is no fault {unknown[0]!r}; there are {', '.join(CATALOGUE)}")
    write = script or (lambda scripted: scripted.reply("The answer is 42.", times=None))
    run = _Runner(function, write, seconds, backend)
    usual = run(None)
    if usual.error is not None or usual.hangs:
        what = "hangs" if usual.hangs else f"raises {usual.error!r}"
        raise AssertionError(f"without any fault the function {what}") from usual.error
    if not usual.calls:
        raise AssertionError(
            "the function did not call the scripted workspace: its client was made before, or names a host. Make the "
            "client in the function, or let the function take the workspace as its argument."
        )
    rows = tuple(_judge(CATALOGUE[name], run(CATALOGUE[name]), usual.value, accept, typed) for name in names)
    report = ResilienceReport(rows)
    if not report.ok:
        bad = sum(not row.ok for row in rows)
        raise AssertionError(f"the function does not survive {bad} of {len(rows)} faults:\n{report}")
    return report


def _check_arguments(
    function: object, script: object, accept: object, typed: object, seconds: object, backend: object
) -> None:
    for name, value in (("function", function), ("script", script), ("accept", accept)):
        if not callable(value) and (value is not None or name == "function"):
            raise ValueError(f"{name} is a function, got {value!r:.80}")
    types = typed if isinstance(typed, tuple) else (typed,)
    if not all(isinstance(one, type) and issubclass(one, BaseException) for one in types):
        raise ValueError(f"typed is a class of exceptions, or a tuple of them, got {typed!r:.80}")
    if not is_number(seconds) or seconds <= 0:  # type: ignore[operator]
        raise ValueError(f"seconds is more than 0, got {seconds!r:.80}")
    if backend not in ("asyncio", "trio"):
        raise ValueError(f"backend is asyncio or trio, got {backend!r:.80}")
    required = len(_required_parameters(function))  # type: ignore[arg-type]
    if required > 1:
        raise ValueError(f"function takes the scripted workspace or nothing, and this one needs {required} arguments")


def _required_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


@dataclass(slots=True)
class _TestedRun:
    """What one run of the function came to."""

    value: Any = None
    error: BaseException | None = None
    hangs: bool = False
    hits: int = 0
    seconds: float = 0.0
    calls: Sequence[ModelCall] = field(default_factory=tuple)


class _Runner:
    """Runs the function in a thread of its own, with a scripted workspace of its own."""

    def __init__(
        self, function: Callable[..., Any], write: Callable[[Scripted], object], seconds: float, backend: str
    ) -> None:
        self._function, self._write, self._seconds, self._backend = function, write, seconds, backend
        self._takes_workspace = bool(_required_parameters(function))
        # One that is async is cancelled in its loop.
        self._blocks = not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function))

    def __call__(self, fault: ResilienceFault | None) -> _TestedRun:
        made, scripted = _TestedRun(), Scripted()
        scripted.settings = ServerSettings(stall=3600, pause=min(0.3, self._seconds / 4), run=0.01)
        thread = threading.Thread(target=self._run, args=(made, scripted), name="function under test", daemon=True)
        with scripted.running():
            self._write(scripted)
            with _skipped_waits() as clock:
                hits = scripted.interfere(fault.hit if fault is not None else None, clock)
                began = clock()
                thread.start()
                thread.join(self._seconds + (0 if self._blocks else _GRACE))
                made.hangs, made.seconds = made.hangs or thread.is_alive(), clock() - began
        thread.join(_GRACE)  # its connections are closed now
        made.hits, made.calls = hits(), scripted.calls
        return made

    def _run(self, made: _TestedRun, scripted: Scripted) -> None:
        arguments = (scripted,) if self._takes_workspace else ()
        try:
            value = self._function(*arguments)
            if inspect.isawaitable(value) or inspect.isasyncgen(value):
                value = anyio.run(_awaited, value, self._seconds, made, backend=self._backend)
            made.value = list(value) if inspect.isgenerator(value) else value
        except BaseException as error:  # noqa: BLE001 - it is what the report is about
            made.error = error


async def _awaited(value: Any, seconds: float, made: _TestedRun) -> Any:
    with anyio.move_on_after(seconds):
        if inspect.isasyncgen(value):
            return [piece async for piece in value]
        return await value
    made.hangs = True
    return None


def _judge(
    fault: ResilienceFault,
    run: _TestedRun,
    usual: Any,
    accept: Callable[[Any], bool] | None,
    typed: type[BaseException] | tuple[type[BaseException], ...],
) -> ResilienceRow:
    outcome: Outcome
    detail = ""
    if not run.calls:
        outcome = "no call"
        detail = "its client is of an earlier run, or it remembers an answer: make the client in the function"
    elif run.hangs:
        outcome, detail = "hang", "it still waits: does it set a time-out?"
    elif run.error is not None:
        outcome = "typed error" if isinstance(run.error, typed) else "crash"
        said = str(run.error).partition("\n")[0]
        detail = f"{type(run.error).__name__}: {said[:100]}{'…' if len(said) > 100 else ''}"
    elif not run.hits:
        outcome = "not met"
    elif _comparable(run.value) == _comparable(usual):
        outcome = "value"
    else:
        outcome = "accepted" if accept is not None and accept(run.value) else "wrong value"
        detail = repr(_comparable(run.value))[:100]
    return ResilienceRow(fault.name, outcome, len(run.calls), run.seconds, detail, _retry_flaw(fault, run))


def _retry_flaw(fault: ResilienceFault, run: _TestedRun) -> str:
    if len(run.calls) > _STORM and run.hits:
        return f"a storm of {len(run.calls)} requests"
    pairs = [(one, two) for one, two in zip(run.calls, run.calls[1:], strict=False) if one.body == two.body]
    for one, two in pairs:
        if fault.hint and one.status == 429 and two.at - one.at < fault.hint * TOO_EARLY:
            return f"sent again after {two.at - one.at:.1f} s, and the server had asked for {fault.hint:g} s"
        if one.status is not None and 400 <= one.status < 500 and one.status not in (408, 409, 425, 429):
            return f"sent again after {one.status}"
    return ""


def _comparable(value: Any) -> Any:
    """A reply by its text, for ids and times differ; the pieces of a stream as one text."""
    if isinstance(value, list | tuple):
        parts = [_comparable(one) for one in value]
        return "".join(parts) if parts and all(isinstance(part, str) for part in parts) else parts
    text = getattr(value, "text", None)
    return str(text) if isinstance(text, str) else value


@contextlib.contextmanager
def _skipped_waits() -> Iterator[Callable[[], float]]:
    """dbllm's clients do not wait between attempts: the clock, which is handed out, jumps instead."""
    skipped = [0.0]

    async def sleep(_backend: Any, seconds: float) -> None:
        skipped[0] += max(0.0, seconds)

    async def sleep_in_loop(_backend: Any, seconds: float) -> None:
        skipped[0] += max(0.0, seconds)
        await anyio.lowlevel.checkpoint()

    def clock() -> float:
        return time.monotonic() + skipped[0]

    clients: list[Any] = [AsyncClient("http://127.0.0.1:9", "unused"), Client("http://127.0.0.1:9", "unused")]
    backends = [type(getattr(client, "_core", client)._transport.backend) for client in clients]
    before = [(kind, name, kind.__dict__.get(name)) for kind in backends for name in ("sleep", "clock")]
    for kind, slow in zip(backends, (sleep_in_loop, sleep), strict=True):
        kind.sleep, kind.clock = slow, staticmethod(clock)
    try:
        yield clock
    finally:
        for kind, name, value in before:
            if value is None:
                delattr(kind, name)
            else:
                setattr(kind, name, value)
