"""What `client.stats()` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import PublicPickle


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


@dataclass(frozen=True, slots=True)
class EndpointStats(PublicPickle):
    """What has been counted of an endpoint, since its client was made. A stream counts up to its first event.

    Attributes:
        calls: calls that were begun.
        failed: calls that ended in an `APIError`.
        attempts: requests, the first of each call, retries and hedges.
        retries: attempts after the first of a call.
        failures: failed attempts by class: "never sent", "throttled", "transient", "ambiguous", "final" (`Retry` says
            which is which). A class without failures is missing.
        denied: retries that the retry budget denied.
        refused: calls that an open circuit breaker refused; nothing was sent.
        breaker_opens: how often the breaker opened.
        hedges: second requests for a call whose first was slow.
    """

    calls: int = 0
    failed: int = 0
    attempts: int = 0
    retries: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    denied: int = 0
    refused: int = 0
    breaker_opens: int = 0
    hedges: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The fields as a dict, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        classes = ", ".join(f"{count} {kind}" for kind, count in self.failures.items())
        attempts, retries = _counted(self.attempts, "attempt", "attempts"), _counted(self.retries, "retry", "retries")
        text = f"{_counted(self.calls, 'call', 'calls')}, {self.failed} failed; {attempts}, {retries}"
        text += f"; failed attempts: {classes}" if classes else ""
        more = {"retries denied": self.denied, "calls refused": self.refused, "hedges": self.hedges}
        return text + "".join(f"; {what}: {count}" for what, count in more.items() if count)


@dataclass(frozen=True, slots=True)
class Stats(EndpointStats):
    """What has been counted of a client: of all its endpoints together, and of each.

    Attributes:
        connections_in_use: connections that carry a call now (or calls that are about to open one).
        connections_idle: open connections that wait for the next call.
        waiting: calls that wait for a connection now, because `max_connections` are in use.
        waits: how often a call had to wait for one.
        endpoints: the counts of each endpoint, by its path; of other hosts by their URL; of model services by path and
            name. Of more than 1,000 the ones called longest ago are left out here, but not in the sums.
    """

    connections_in_use: int = 0
    connections_idle: int = 0
    waiting: int = 0
    waits: int = 0
    endpoints: Mapping[str, EndpointStats] = field(default_factory=dict)

    @classmethod
    def of(
        cls, total: EndpointStats, connections: tuple[int, int, int, int], endpoints: dict[str, EndpointStats]
    ) -> Stats:
        """The sums, (connections in use, idle, calls that wait, waits in all), and the endpoints."""
        sums: Any = {item.name: getattr(total, item.name) for item in fields(total)}
        in_use, idle, waiting, waits = connections
        return cls(
            **sums, connections_in_use=in_use, connections_idle=idle, waiting=waiting, waits=waits, endpoints=endpoints
        )

    def __str__(self) -> str:
        connections = f"connections: {self.connections_in_use} in use, {self.connections_idle} idle"
        waits = f"; {self.waits} waits for a connection, {self.waiting} now" if self.waits else ""
        lines = [EndpointStats.__str__(self), connections + waits]
        return "\n".join([*lines, *(f"{path}: {stats}" for path, stats in self.endpoints.items())])
