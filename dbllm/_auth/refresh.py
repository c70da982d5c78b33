"""Headers that expire and are fetched again, one fetch at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from .._backends.backend import Backend
from ..errors import DbllmError
from .auth import Auth

TOKEN_SECONDS = 20.0  # what one token request may take at most, within its call's deadline
RETRY_REFRESH_AFTER = 10.0  # seconds without another try after a refresh failed while the old token still served


@dataclass(frozen=True, slots=True)
class ExpiringHeaders:
    """Headers, and until when they are good (on the backend's clock); `life` is how long they are good in all."""

    headers: Mapping[str, str] = field(repr=False)
    ends: float
    life: float

    @property
    def stale(self) -> float:
        """From when on a new one should be had: 40 s before the end, or the last fifth of a short life."""
        return self.ends - min(40.0, 0.2 * self.life)


Fetch = Callable[[Backend, float], Awaitable[ExpiringHeaders]]
"""Gets a new lease before a deadline."""


class RefreshingAuth(Auth):
    """Headers that end and are fetched again; at most one fetch at a time.

    The first caller in the stale window fetches inside its own call, while the others go on with what there is; only
    when nothing valid is left do they wait. If the fetching caller is cancelled, its lock opens and the next one
    fetches. While the old headers serve, a failed fetch costs nobody a call: it is tried again a little later.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._lease: ExpiringHeaders | None = None
        self._resting = float("-inf")  # no new try before

    async def headers(self, backend: Backend, deadline: float) -> Mapping[str, str]:
        lease, now = self._lease, backend.clock()
        if lease is not None and now < max(lease.stale, min(self._resting, lease.ends)):
            return lease.headers
        serves = lease is not None and now < lease.ends
        async with backend.lock("token", deadline, wait=not serves) as ours:
            current = self._lease
            if current is not None and (not ours or current is not lease) and backend.clock() < current.ends:
                return current.headers
            if not ours:  # it ended this very moment
                return await self.headers(backend, deadline)
            try:
                fresh = await self._fetch(backend, min(deadline, backend.clock() + TOKEN_SECONDS))
            except DbllmError:
                if lease is None or backend.clock() >= lease.ends or self._lease is None:
                    raise
                self._resting = backend.clock() + min(RETRY_REFRESH_AFTER, (lease.ends - backend.clock()) / 4)
                return lease.headers
            self._lease = fresh
            return fresh.headers

    def on_rejected(self, sent: Mapping[str, str], now: float) -> bool:
        lease = self._lease
        # What somebody has fetched meanwhile serves if it is young: this call has just shown how long it takes to
        # arrive, and it is made again only once.
        if lease is not None and (lease.headers is sent or now > lease.ends - 0.8 * lease.life):
            self._lease = None
        return True
