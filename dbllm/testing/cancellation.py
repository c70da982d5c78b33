"""A call that is cancelled at every point where it waits, one after the other.

    report = cancel_everywhere(lambda client: client.endpoint("m").chat("hello"), lambda: AsyncClient(server.host, "t"))
    assert report.ok, report

A run that is left alone counts the waits. Then the call runs once for each of them, with a new client, and is cancelled
there; afterwards the same client makes the call again, is closed, and nothing may be left open. In an asyncio loop each
wait is cancelled twice: as it begins, and in the moment in which it ends. Plain code gets a KeyboardInterrupt before
and after each system call that may block.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

from dbllm.testing.leak_census import Census, take_census, wait_for_end

SweepMode = Literal["asyncio", "uvloop", "trio", "plain"]
_TRIES = 10  # runs until a wait is reached that not every run has
_PATIENCE = 1.0  # seconds for what closes itself
_BLOCKING = frozenset(
    {
        *("recv", "recv_into", "send", "sendall", "connect", "accept", "getaddrinfo"),
        *("do_handshake", "read", "write", "shutdown", "poll", "select", "sleep", "acquire"),
    }
)
_BLOCKING_MODULES = frozenset({"_socket", "_ssl", "select", "time", "_thread"})


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep found.

    Attributes:
        mode: where it ran.
        points: at how many waits a run that was left alone could be cancelled, as counted twice in a row.
        cancelled: at which of them (from 1) the call was cancelled.
        not_propagated: cancellations that did not come out of the call as they went in.
        leaked: what was left open.
        failed_after: next calls, by the same client, that did not succeed.
    """

    mode: SweepMode
    points: int
    cancelled: tuple[int, ...]
    not_propagated: tuple[str, ...] = ()
    leaked: tuple[str, ...] = ()
    failed_after: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every wait was cancelled, and nothing went wrong."""
        whole = set(range(1, self.points + 1)) <= set(self.cancelled)
        return bool(self.points) and whole and not (self.not_propagated or self.leaked or self.failed_after)

    def __str__(self) -> str:
        lines = [f"{self.mode}: {self.points} points, cancelled at {len(self.cancelled)}"]
        for name in ("not_propagated", "leaked", "failed_after"):
            lines += [f"{name}: {text}" for text in getattr(self, name)]
        return "\n".join(lines)


class _Run:
    """One run: where it is cancelled, and what came of it."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.points, self.reached = at, 0, False
        self.outcome: list[str] = []
        self.left: list[str] = []
        self.after: list[str] = []

    def arrived(self) -> bool:
        """Count one point; whether this is the one to cancel at."""
        self.points += 1
        if self.points == self.at and not self.reached:
            self.reached = True
            return True
        return False


def cancel_everywhere(
    call: Callable[..., Any], client: Callable[[], Any] | None = None, *, mode: SweepMode | None = None
) -> SweepReport:
    """Run a call once for each of its waits, cancelled there. It makes its own event loops: call it from plain code.

    Args:
        call: gets the client, and is made anew for each run; without `client` it gets nothing. It must wait equally
            often in each run, or nearly so.
        client: makes what the call needs: a context manager, async where `call` is; it is entered for each run.
        mode: "asyncio" (which is what an async function gets without it), "uvloop", "trio"; "plain" for a function that
            is not async.
    """
    if mode is None:
        mode = "asyncio" if inspect.iscoroutinefunction(call) or hasattr(client, "__aenter__") else "plain"
    run_once = {"asyncio": _in_asyncio, "uvloop": _in_uvloop, "trio": _in_trio, "plain": _in_plain_code}[mode]
    points = _count_points(run_once, call, client)
    cancelled, outcome, left, after = [], [], [], []
    at = 1
    while at <= points:
        for _ in range(_TRIES):
            run = _Run(at)
            run_once(run, call, client)
            outcome += [f"at {at}: {text}" for text in run.outcome]
            left += [f"at {at}: {text}" for text in run.left]
            after += [f"at {at}: {text}" for text in run.after]
            if run.reached:
                cancelled.append(at)
                break
        else:  # the run that was counted had a wait that no other has: a piece that came late
            points = _count_points(run_once, call, client)
        at += 1
    return SweepReport(mode, points, tuple(cancelled), tuple(outcome), tuple(left), tuple(after))


def _count_points(run_once: Callable[..., None], call: Callable[..., Any], client: Callable[[], Any] | None) -> int:
    """The points of a run, as two runs in a row have them; the first imports and fills caches."""
    before, counted = -1, _Run()
    run_once(counted, call, client)
    for _ in range(_TRIES):
        if counted.points == before:
            break
        before, counted = counted.points, _Run()
        run_once(counted, call, client)
    return counted.points


@contextmanager
def _without_collections() -> Iterator[None]:
    """What the collector would close has been left open."""
    enabled = gc.isenabled()
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _NoClient:
    """In the place of a client, where a call needs none."""

    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *_: object) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def _call_with(call: Callable[..., Any], client: Any) -> Callable[[], Any]:
    return call if client is None else lambda: call(client)


def _permits(client: Any) -> list[str]:
    stats = client.stats() if hasattr(client, "stats") else None
    held = stats.connections_in_use + stats.waiting if stats is not None else 0
    return [f"connections: {held} in use after the cancellation"] if held else []


# --- event loops ------------------------------------------------------------------------------------------------------


async def _sweep_one(
    run: _Run,
    call: Callable[..., Any],
    client: Callable[[], Any] | None,
    cancelled_call: Callable[[Callable[[], Awaitable[Any]]], Awaitable[None]],
    sleep: Callable[[float], Awaitable[Any]],
) -> None:
    """One run inside an event loop."""
    before = take_census()
    async with client() if client is not None else _NoClient() as entered:
        await cancelled_call(_call_with(call, entered))
        if run.at:
            run.left += _permits(entered)
            try:
                await _call_with(call, entered)()
            except Exception as error:  # noqa: BLE001 - it is reported
                run.after.append(f"{type(error).__name__}: {error}")
    run.left += await _still_open(before, sleep)


async def _still_open(before: Census, sleep: Callable[[float], Awaitable[Any]]) -> list[str]:
    turn = 0
    while (left := take_census().leaked(before)) and turn < 10 + _PATIENCE / 0.01:
        await sleep(0 if turn < 10 else 0.01)
        turn += 1
    return left


def _in_uvloop(run: _Run, call: Callable[..., Any], client: Callable[[], Any] | None) -> None:
    import uvloop

    _in_asyncio(run, call, client, uvloop.new_event_loop)


def _in_asyncio(
    run: _Run,
    call: Callable[..., Any],
    client: Callable[[], Any] | None,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> None:
    async def cancelled_call(bound: Callable[[], Awaitable[Any]]) -> None:
        loop = asyncio.get_running_loop()

        async def whole() -> None:
            await bound()

        def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
            return asyncio.Task(_counted(coroutine), loop=loop, **options)

        async def _counted(coroutine: Coroutine[Any, Any, Any]) -> Any:
            return await _Waits(coroutine, run, lambda: task.cancel())

        loop.set_task_factory(factory)
        try:
            task = loop.create_task(whole())
            await asyncio.wait([task])
        finally:
            loop.set_task_factory(None)
        if run.reached and not task.cancelled():
            error = task.exception()
            run.outcome.append("the call went on" if error is None else f"{type(error).__name__}: {error}")
        elif not run.reached:
            task.result()

    loop = new_loop()
    try:
        with _without_collections():
            loop.run_until_complete(_sweep_one(run, call, client, cancelled_call, asyncio.sleep))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class _Waits:
    """Runs a coroutine; each of its waits is two points: as the wait begins, and as it ends."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], run: _Run, cancel: Callable[[], object]) -> None:
        self._coroutine, self._run, self._cancel = coroutine, run, cancel

    def __await__(self) -> Any:
        run, send, throw = self._run, self._coroutine.send, self._coroutine.throw
        try:
            trap = send(None)
            while True:
                if run.arrived():
                    self._cancel()
                if run.arrived():
                    if hasattr(trap, "add_done_callback"):
                        trap.add_done_callback(lambda _: self._cancel())
                    else:
                        self._cancel()
                try:
                    sent = yield trap
                except BaseException as error:  # noqa: BLE001 - handed on
                    trap = throw(error)
                else:
                    trap = send(sent)
        except StopIteration as done:
            return done.value


def _in_trio(run: _Run, call: Callable[..., Any], client: Callable[[], Any] | None) -> None:
    import trio

    async def cancelled_call(bound: Callable[[], Awaitable[Any]]) -> None:
        scope, root = trio.CancelScope(), trio.lowlevel.current_task()

        class Steps(trio.abc.Instrument):
            def after_task_step(self, task: trio.lowlevel.Task) -> None:
                above: trio.lowlevel.Task | None = task
                while above is not None and above is not root:
                    above = above.parent_nursery.parent_task if above.parent_nursery is not None else None
                waits = inspect.getcoroutinestate(task.coro) == inspect.CORO_SUSPENDED
                if above is root and waits and run.arrived():
                    scope.cancel()

        steps = Steps()
        with scope:
            trio.lowlevel.add_instrument(steps)
            try:
                await bound()
            except Exception as error:
                if not run.reached:
                    raise
                run.outcome.append(f"{type(error).__name__}: {error}")
            finally:
                trio.lowlevel.remove_instrument(steps)
            await trio.lowlevel.checkpoint_if_cancelled()

    with _without_collections():
        trio.run(_sweep_one, run, call, client, cancelled_call, trio.sleep)


# --- plain code -------------------------------------------------------------------------------------------------------


def _in_plain_code(run: _Run, call: Callable[..., Any], client: Callable[[], Any] | None) -> None:
    def interrupt(frame: FrameType, event: str, function: Any) -> None:
        if event not in ("c_call", "c_return") or function.__name__ not in _BLOCKING:
            return
        # A lock that was just taken is left out: nobody could release it, as `with` has not begun yet.
        wanted = event == "c_call" or (event == "c_return" and function.__name__ != "acquire")
        if wanted and _may_block(function) and run.arrived():
            raise KeyboardInterrupt

    before = take_census()
    with _without_collections():
        with client() if client is not None else _NoClient() as entered:
            bound = _call_with(call, entered)
            try:
                sys.setprofile(interrupt)
                try:
                    bound()
                finally:
                    sys.setprofile(None)
                if run.reached:
                    run.outcome.append("the call went on")
            except KeyboardInterrupt:
                if not run.reached:
                    raise
            except Exception as error:
                if not run.reached:
                    raise
                run.outcome.append(f"{type(error).__name__}: {error}")
            if run.at:
                run.left += _permits(entered)
                try:
                    bound()
                except Exception as error:  # noqa: BLE001 - it is reported
                    run.after.append(f"{type(error).__name__}: {error}")
        run.left += wait_for_end(lambda: take_census().leaked(before), _PATIENCE)


def _may_block(function: Any) -> bool:
    """Whether it is a system call of a socket, a lock, a clock …: of these modules, or a method of their classes."""
    owners = [function, *type(getattr(function, "__self__", None)).__mro__]
    return any(getattr(owner, "__module__", None) in _BLOCKING_MODULES for owner in owners)
