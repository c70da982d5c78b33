"""`rows`: the results of many rows, as they come; and `rows_sync`, the same in plain code."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any

from anyio.from_thread import start_blocking_portal

from dbllm import Limits, Retry, Timeout
from dbllm._misnomers import explain_keywords

from .progress import Item, Progress
from .results import RowResult
from .row_mapper import Handle, RowMapper
from .scheduler import Scheduler

Source = Iterable[Any] | AsyncIterable[Any]


class Rows:
    """The results of many rows, in the order in which they come: an async iterator.

    The calls run in tasks of their own, so the loop's body may take its time: nothing is sent meanwhile beyond what
    the look-ahead allows. Leaving the loop early, dropping the iterator or `aclose` cancels what is in flight.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._begun = False

    def __aiter__(self) -> Rows:
        return self

    if not TYPE_CHECKING:  # a type checker finds the mistake by itself

        def __iter__(self) -> Any:
            raise TypeError(
                "Rows is asynchronous: write `async for` in an async function, or use rows_sync(…) in plain code."
            )

    async def __anext__(self) -> RowResult:
        """The next result.

        Raises:
            ConfigError, APIError: the configuration is incomplete, or there is no such endpoint; nothing was sent.
            TooManyErrors: the share of error rows passed `max_error_rate`.
            EveryRowRefused: the endpoint refuses every row; those that it refused last have no result.
            Exception: what the input raised, after the results of the rows before.
        """
        scheduler = self._scheduler
        if not scheduler.results:
            self._begin()
            if not await scheduler.wait():
                if (failure := scheduler.failure) is not None:
                    scheduler.failure = None
                    raise failure
                raise StopAsyncIteration
        return scheduler.take()

    async def batch(self) -> list[RowResult]:
        """All results that are there, at least one; none at the end. Raises as the iterator does."""
        try:
            first = await self.__anext__()
        except StopAsyncIteration:
            return []
        return [first, *(self._scheduler.take() for _ in range(len(self._scheduler.results)))]

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._scheduler.spawn()

    def stop(self) -> None:
        """Send no further row. Those in flight are awaited, and the iterator ends after them."""
        self._scheduler.stop()

    def cancel(self) -> None:
        """End what is in flight; the iterator ends."""
        self._scheduler.cancel()

    def progress(self) -> Progress:
        """Where the job is."""
        return self._scheduler.progress()

    def in_flight(self) -> list[int]:
        """The indices of the rows that are being sent."""
        return self._scheduler.in_flight()

    async def aclose(self) -> None:
        """Cancel what is in flight, and wait until it has ended."""
        if self._begun:
            await self._scheduler.aclose()

    async def __aenter__(self) -> Rows:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        scheduler = self.__dict__.get("_scheduler")
        if scheduler is not None and self._begun and not scheduler.finished:
            try:
                scheduler.call_soon(scheduler.cancel)
            except RuntimeError:  # the loop has ended, and its tasks with it
                pass


@explain_keywords
def rows(
    handle: Handle | RowMapper,
    prompts: Source,
    *,
    concurrency: int | None = None,
    limits: Limits | None = None,
    retry: Retry | None = None,
    max_error_rate: float | None = None,
    verb: str | None = None,
    prompt: str | None = None,
    params: Mapping[str, Any] | None = None,
    response_model: type | None = None,
    tags: Mapping[str, str] | None = None,
    timeout: float | Timeout | None = None,
    on_send: Callable[[int], object] | None = None,
    on_result: Callable[[RowResult], object] | None = None,
) -> Rows:
    """Call a model for each row, many at once; the results come in the order in which they are ready.

    A row that fails is a result with an `error`. No failure of a row ends the others; only an endpoint that refuses
    every row for one reason (a wrong token, a missing permission, another verb) does.

    Args:
        handle: an endpoint or driver app of a client, or a `RowMapper`, which has the next arguments itself.
        prompts: any iterable or async iterable: prompts (str), messages (lists), or rows (mappings); read only as fast
            as answers come. `Item(index, row)` gives a row its own index.
        concurrency: how many calls at once; None finds out how many serve best.
        limits: the rates to keep; see `Limits`.
        retry: the policy; default `RETRY`: 8 attempts.
        max_error_rate: stop when more than this share of the last 200 rows failed; 1 never stops, even if every row is
            refused.
        verb, prompt, params, response_model, tags, timeout: as for `RowMapper`; `timeout` is one attempt's.
        on_send: called with a row's index before each attempt.
        on_result: called with each result as soon as it is there, which is before the iterator gives it.
    """
    own: dict[str, Any] = {
        "verb": verb,
        "prompt": prompt,
        "params": params,
        "response_model": response_model,
        "tags": tags,
    }
    own["timeout"] = timeout
    if isinstance(handle, RowMapper):
        if given := [name for name, value in own.items() if value is not None]:
            raise TypeError(f"the RowMapper has its own {', '.join(given)}: pass them to RowMapper.")
        mapper = handle
    else:
        mapper = RowMapper(handle=handle, **own)
    check_numbers(concurrency, max_error_rate)
    items = _NumberedAsync(prompts) if isinstance(prompts, AsyncIterable) else _numbered(prompts)
    return Rows(
        Scheduler(
            mapper,
            items,
            concurrency=concurrency,
            limits=limits or mapper.limits,
            retry=retry or mapper.retry,
            max_error_rate=max_error_rate,
            on_send=on_send,
            on_result=on_result,
        )
    )


def check_numbers(concurrency: Any, max_error_rate: Any) -> None:
    """Raise ValueError if one of them cannot be."""
    if concurrency is not None and (
        isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1
    ):
        raise ValueError(f"concurrency must be an integer, 1 or more, or None (adaptive), got {concurrency!r}.")
    if max_error_rate is not None and not 0 <= max_error_rate <= 1:
        raise ValueError(f"max_error_rate must be between 0 and 1, got {max_error_rate!r}.")


def _numbered(rows: Iterable[Any]) -> Iterator[Item]:
    if isinstance(rows, (str, bytes, Mapping)):
        raise TypeError(f"rows() takes many rows, got one {type(rows).__name__}: put it into a list.")
    return (row if isinstance(row, Item) else Item(place, row) for place, row in enumerate(rows))


class _NumberedAsync:
    """An async source as items. Closing it closes the source, which an async generator around it would not."""

    def __init__(self, rows: AsyncIterable[Any]) -> None:
        self._rows, self._place = aiter(rows), count()

    def __aiter__(self) -> _NumberedAsync:
        return self

    async def __anext__(self) -> Item:
        row, place = await anext(self._rows), next(self._place)
        return row if isinstance(row, Item) else Item(place, row)

    async def aclose(self) -> None:
        if (close := getattr(self._rows, "aclose", None)) is not None:
            await close()


class PlainRows:
    """`Rows` in plain code: an iterator. The event loop runs in a thread of its own.

    Many calls at once need a loop, and the caller's thread may run one already (a notebook). Closing it, or leaving
    its `with` block, cancels what is in flight and ends the thread.
    """

    def __init__(self, made: Callable[[], Rows]) -> None:
        with ExitStack() as opened:  # which ends the thread again where an argument is wrong
            self._portal = opened.enter_context(start_blocking_portal("asyncio"))
            self._rows = made()
            stack = opened.pop_all()
        self._ready: list[RowResult] = []
        self._close = weakref.finalize(self, _close, stack, self._portal, self._rows)

    def __iter__(self) -> PlainRows:
        return self

    def __next__(self) -> RowResult:
        """The next result; raises as `Rows` does."""
        if not self._ready:
            if not self._close.alive:
                raise StopIteration
            try:
                self._ready = self._portal.call(self._rows.batch)[::-1]
            except BaseException:
                self.close()
                raise
            if not self._ready:
                self.close()
                raise StopIteration
        return self._ready.pop()

    def stop(self) -> None:
        """Send no further row; those in flight are awaited."""
        self._portal.call(self._rows.stop)

    def progress(self) -> Progress:
        """Where the job is."""
        return self._rows.progress()

    def close(self) -> None:
        """Cancel what is in flight, and end the thread."""
        self._close()

    def __enter__(self) -> PlainRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(stack: ExitStack, portal: Any, rows: Rows) -> None:
    try:
        portal.call(rows.aclose)
    finally:
        stack.close()


@explain_keywords
def rows_sync(handle: Handle | RowMapper, prompts: Iterable[Any], **options: Any) -> PlainRows:
    """As `rows`, in plain code: `for row in rows_sync(client.endpoint("dolly"), prompts): …`.

    It works inside a running event loop too. `handle` may be one of a `Client` (each call then uses a thread) or of an
    `AsyncClient`.
    """
    return PlainRows(lambda: rows(handle, prompts, **options))
