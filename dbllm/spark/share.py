"""How the limits of a job are shared over the tasks that run at once. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dbllm import Limits

ROWS_AT_ONCE = 8
"""Calls that a task makes at once, at the least, where there are enough: one process does hundreds."""

_REQUESTS = ("requests_per_minute", "requests_per_hour")
_TOKENS = ("input_tokens_per_minute", "output_tokens_per_minute")


@dataclass(frozen=True, slots=True)
class Share:
    """The limits of a job, and how many tasks share them.

    Attributes:
        limits: of the whole job; `concurrency` is a number.
        tasks: how many run at once.
    """

    limits: Limits
    tasks: int

    def concurrency(self, partition: int) -> int:
        """Calls at once in the task of a partition. The first tasks have what is left over."""
        return _part(self._concurrency, self.tasks, partition)

    def limits_of(self, partition: int) -> Limits:
        """The rates of the task of a partition."""
        rates: dict[str, float] = {}
        for name in (*_REQUESTS, *_TOKENS):
            total = getattr(self.limits, name)
            if total is None:
                continue
            whole = name in _REQUESTS and float(total).is_integer()  # no request is lost by rounding
            rates[name] = _part(int(total), self.tasks, partition) if whole else total / self.tasks
        return replace(self.limits, concurrency=None, **rates)  # type: ignore[arg-type]

    def __str__(self) -> str:
        said = [_sum("concurrency", self._concurrency, self.tasks)]
        for name in (*_REQUESTS, *_TOKENS):
            if (total := getattr(self.limits, name)) is not None:
                said.append(_sum(name, total, self.tasks))
        return ", ".join(said)

    @property
    def sum(self) -> str:
        """The concurrency as a sum: "64 = 8 tasks × 8"."""
        return _sum("", self._concurrency, self.tasks).strip()

    @property
    def _concurrency(self) -> int:
        assert isinstance(self.limits.concurrency, int)  # noqa: S101
        return self.limits.concurrency


def share_of(limits: Limits, slots: int, *, tasks: int | None = None, max_tokens: int | None = None) -> Share:
    """How many tasks share the limits: as many as run at once, but none whose share is less than one request.

    Args:
        limits: of the whole job; a `concurrency` that is no number counts as 64.
        slots: how many tasks the cluster runs at once.
        tasks: as the user wants it.
        max_tokens: what one request reserves of the output tokens.
    """
    concurrency = limits.concurrency if isinstance(limits.concurrency, int) else 64
    limits = replace(limits, concurrency=concurrency)
    number = tasks or min(slots, max(1, concurrency // ROWS_AT_ONCE))
    most = [number, concurrency]
    most += [int(rate) for name in _REQUESTS if (rate := getattr(limits, name)) is not None]
    if limits.output_tokens_per_minute is not None:
        most.append(int(limits.output_tokens_per_minute // (max_tokens or limits.default_max_tokens)))
    return Share(limits, max(1, min(most)))


def _part(total: int, tasks: int, partition: int) -> int:
    each, left = divmod(total, tasks)
    return max(1, each + (partition % tasks < left))


def _sum(name: str, total: float, tasks: int) -> str:
    each = total / tasks
    exact = (
        f"{each:g}" if each.is_integer() or name.endswith("tokens_per_minute") else f"{int(each)} or {int(each) + 1}"
    )
    return f"{name.replace('_', ' ')} {total:g} = {tasks} {'task' if tasks == 1 else 'tasks'} × {exact}"
