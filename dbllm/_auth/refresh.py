"""Headers that expire and are fetched anew, one fetch at a time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from .._backends.backend import Backend
from ..errors import APITimeoutError, DbllmError
from .auth import Auth

log = logging.getLogger("dbllm.auth")

TOKEN_SECONDS = 20.0  # what one token request may take at most, within its call's deadline
GRACE_SECONDS = 0.05  # beyond the deadline, at which most fetches end by themselves, with the better error
RETRY_REFRESH_AFTER = 10.0  # seconds from a failed refresh to the next one, while the old token is still valid


@dataclass(frozen=True, slots=True)
class ExpiringHeaders:
    """Headers, when they expire (`ends`, on the backend's clock), and their lifetime in seconds."""

    headers: Mapping[str, str] = field(repr=False)
    ends: float
    life: float

    @property
    def stale(self) -> float:
        """When to fetch new ones: 40 s before the end, or in the last fifth of a short lifetime."""
        return self.ends - min(40.0, 0.2 * self.life)


Fetch = Callable[[Backend, float], Awaitable[ExpiringHeaders]]
"""Fetches new headers before a deadline."""


class RefreshingAuth(Auth):
    """Headers that expire and are fetched anew; at most one fetch at a time.

    The first caller in the stale window fetches inside its own call, while the others use the old headers; they wait
    only if those have expired. If the fetching caller is cancelled, its lock is released and the next one fetches.
    While the old headers are valid, a failed fetch fails no call: it is tried again a little later.
    """

    def __init__(self, fetch: Fetch, lock: str = "token") -> None:
        """`lock` names the lock of fetches; an auth whose fetch asks another auth has one of its own."""
        self._fetch, self._lock = fetch, lock
        self._lease: ExpiringHeaders | None = None
        self._paused_until = float("-inf")  # after a fetch that failed

    async def headers(self, backend: Backend, deadline: float) -> Mapping[str, str]:
        lease, now = self._lease, backend.clock()
        if lease is not None and now < max(lease.stale, min(self._paused_until, lease.ends)):
            return lease.headers
        serves = lease is not None and now < lease.ends
        async with backend.lock(self._lock, deadline, wait=not serves) as ours:
            current = self._lease
            if current is not None and (not ours or current is not lease) and backend.clock() < current.ends:
                return current.headers
            if not ours:  # it has just expired
                return await self.headers(backend, deadline)
            began = backend.clock()
            fetching = self._fetch(backend, min(deadline, began + TOKEN_SECONDS))
            late = APITimeoutError("no token came in time", sent=False)
            try:
                fresh = await backend.within(deadline - began + GRACE_SECONDS, fetching, late)
            except DbllmError as error:
                await _tell(backend, backend.clock() - began, None, error)
                if lease is None or backend.clock() >= lease.ends or self._lease is None:
                    raise
                self._paused_until = backend.clock() + min(RETRY_REFRESH_AFTER, (lease.ends - backend.clock()) / 4)
                left = lease.ends - backend.clock()
                log.warning("the token could not be renewed, and the old one serves for %.0f s: %s", left, error)
                return lease.headers
            self._lease = fresh
            log.debug("a token was fetched; it is valid for %.0f s", fresh.life)
            await _tell(backend, backend.clock() - began, fresh.life)
            return fresh.headers

    def on_rejected(self, sent: Mapping[str, str], now: float) -> bool:
        lease = self._lease
        # Headers that another caller has fetched meanwhile are kept if they are young; this call is repeated only once.
        if lease is not None and (lease.headers is sent or now > lease.ends - 0.8 * lease.life):
            self._lease = None
        return True


async def _tell(backend: Backend, *what: object) -> None:
    if (refreshed := getattr(backend, "refreshed", None)) is not None:
        await refreshed(*what)
