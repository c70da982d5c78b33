"""One logical call: headers, attempts, errors for a status, log line; and the opening of a stream."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from .._auth.auth import Auth, OAuthOnly, is_expired_response
from .._auth.redaction import Redaction, hide_frames
from .._backends.backend import Backend
from .._http.errors import name_server
from .._http.request import HttpRequest, RequestHeaders
from .._lazy import WholeImport, own_version
from .._protocol.error_responses import status_error
from .._protocol.paths import app_origin
from .._protocol.reply import CallInfo
from ..errors import APIError, APIStatusError, ConfigError, Raw
from .call import JSON, Call, OpenStream, tracers
from .health import HealthRecords
from .retry import FailedAttempts, classify, failure_cost, retry_call

if TYPE_CHECKING:
    from .hooks import Hooks, OnAttempt
    from .observers import Observers
    from .stats import Stats

log = logging.getLogger("dbllm")

InfoT = TypeVar("InfoT", bound=CallInfo)
T = TypeVar("T")
ReadT = TypeVar("ReadT")
Work = Callable[[], Awaitable[T]]

_NOTHING: Mapping[str, str] = {}
Send = Callable[[Call], Awaitable[InfoT]]
"""Sends a call once."""

Sent = Mapping[str, str] | None
"""Headers of the auth's; None where others are not to be asked for."""


class Transport:
    """Sends calls to a workspace, and to other origins that have credentials of their own."""

    def __init__(
        self, host: str, auth: Auth, backend: Backend, hooks: Hooks | None = None, on_attempt: OnAttempt | None = None
    ) -> None:
        self.host, self.backend = host, backend
        self._observers: Observers | None = None
        if hooks is not None or on_attempt is not None:
            self._observe(hooks, on_attempt)
        self._auths = {host: auth}
        self._records = HealthRecords()
        self.closed = False
        self._headers: dict[object, tuple[Sent, Mapping[str, str], RequestHeaders, Callable[..., Redaction]]] = {}
        if level := os.environ.get("DBLLM_LOG"):
            with WholeImport():
                from .logs import show_logs

            show_logs(level)
        _own_headers()  # called early: it imports a slow module, and no event loop waits yet
        weakref.finalize(self, backend.close_when_possible)

    def add_origin(self, origin: str, auth: Auth) -> None:
        """Allow calls to another origin, with its own credentials and no others."""
        self._auths[origin] = auth

    def add_app(self, url: str) -> str:
        """Allow calls to an app of the workspace, with its OAuth token and nothing else; returns the app's origin.

        Raises:
            ConfigError: the address is not one to which the token may go.
        """
        origin = app_origin(url, self.host)
        if origin != self.host:
            self.add_origin(origin, OAuthOnly(self._auths[self.host]))
        return origin

    def add_data_plane(self, origin: str, path: str, details: str) -> None:
        """Allow calls to a path of an endpoint's own host, with tokens that are issued for this endpoint alone.

        Args:
            origin, path: of the endpoint.
            details: what the token is asked for, as the endpoint's description says it.

        Raises:
            ConfigError: no credential may go to that address.
        """
        if (key := origin + path) not in self._auths:
            from .._auth import oauth, refresh  # here: most clients have a token, and need neither

            oauth.require_trusted_url(origin, self.host)
            fetch = oauth.data_plane(self.host, OAuthOnly(self._auths[self.host]), details)
            self._auths[key] = refresh.RefreshingAuth(fetch, f"token {key}")

    async def require_oauth(self, deadline: float) -> None:
        """ConfigError if the workspace's credential is of a kind that apps do not take."""
        await OAuthOnly(self._auths[self.host]).headers(self.backend, deadline)

    def call(self, call: Call) -> Coroutine[Any, Any, CallInfo]:
        """Send a call, in as many attempts as it takes, and return the response.

        Raises:
            APIError: the last attempt's failure.
            ConfigError: the token function did not return a token.
        """
        return self._carry(call, self._send_once)

    def open(self, call: Call) -> Coroutine[Any, Any, OpenStream]:
        """Open a stream and read up to its first event; until then retries and errors are those of `call`."""
        return self._carry(call, self._open_once, True)

    def _observe(self, hooks: Hooks | None = None, on_attempt: OnAttempt | None = None) -> Observers:
        with WholeImport():
            from .observers import Observers  # here: most clients have no hooks

        self._observers = Observers(hooks, on_attempt, self.backend)
        return self._observers

    @property
    def observers(self) -> Observers | None:
        """What tells hooks of the call that begins here; None where there are none to tell."""
        if self._observers is None and not tracers:
            return None
        observers = self._observers or self._observe()
        return observers if observers.active() else None

    def watch(self, about: Any, work: Work[T], read: Callable[[T], ReadT], *ends: float) -> Coroutine[Any, Any, ReadT]:
        """Do a call's work and read its answer; hooks are told of it, where there are any: see `Observers.watch`."""
        observers = self._observers or (self._observe() if tracers else None)
        return _unwatched(work, read) if observers is None else observers.watch(about, work, read, *ends)

    async def aclose(self) -> None:
        """Close the connections; later calls fail."""
        self.closed = True
        await self.backend.aclose()

    async def _carry(self, call: Call, send: Send[InfoT], stream: bool = False) -> InfoT:
        attempt = send
        if (observers := self.observers) is not None:
            if not observers.watching():  # it is part of no verb: hooks are told of it as of a call
                about = "request", f"{call.method} {call.logged}", call.origin or self.host, stream
                return await observers.watch(about, partial(self._carry, call, send), lambda info: info, call.deadline)
            attempt = partial(observers.attempt, pause=self._pause_after, send=send)
        began = call.began = self.backend.clock()
        health = call.health = self._records.of(call.origin, call.path, call.model)
        health.begin_call(began)
        if call.retry.hedge is not None and call.may_hedge:
            attempt = partial(self._send_hedged, attempt=attempt)
        if call.limiter is not None:
            attempt = partial(call.limiter.send, self.backend, call.origin or self.host, attempt)
        try:
            if call.retry.breaker:
                health.admit(began)
            try:
                info = await attempt(call)
            except APIError as first:
                if self._failed(call).pause_after(first) is None:
                    raise  # at once, so that the traceback does not show the retry loop
                again = partial(self._send_again, call, attempt)
                info, info.attempts = await retry_call(again, self._failed(call), first, self.backend.sleep)
        except APIError as error:
            health.call_failed()
            call.failed = None  # its errors have this frame in their tracebacks: a cycle would keep them
            self._log(call, type(error).__name__, began, error.attempts)
            raise
        health.attempt_succeeded()
        if call.retry.breaker:
            health.watch(began, self.backend.clock(), False)
        if log.isEnabledFor(logging.INFO if info.attempts > 1 else logging.DEBUG):
            self._log(call, str(info.raw.status), began, info.attempts)
        return info

    def stats(self) -> Stats:
        """What has been counted, and the connections of this moment."""
        with WholeImport():
            from .stats import Stats

        return Stats.of(self._records.total.snapshot(), self.backend.connections(), self._records.snapshot())

    def _failed(self, call: Call) -> FailedAttempts:
        if call.failed is None:
            clock, health = self.backend.clock, call.health
            assert health is not None  # the call has begun  # noqa: S101
            what = f"{call.method} {call.logged}"
            call.failed = FailedAttempts(call.retried_as, call.retry, call.deadline, clock, health, call.began, what)
        return call.failed

    async def _send_again(self, call: Call, attempt: Send[InfoT]) -> InfoT:
        call.attempt += 1
        call.fresh = not self._failed(call).errors[-1].sent
        if call.health is not None:
            call.health.begin_retry()
        return await attempt(call)

    def _pause_after(self, call: Call, error: APIError) -> float | None:
        return None if call.hedging else self._failed(call).pause_after(error)

    async def _send_once(self, call: Call, renewed: bool = False) -> CallInfo:
        """One attempt; if its credentials have expired, it is sent once more with new ones."""
        auth, sent, request = self._auth(call), _NOTHING, None
        try:
            sent = await auth.headers(self.backend, call.deadline)
            pool, request = await self.backend.pool(call.origin or self.host), self._request(call, sent)
            raw = await pool.send(request)
            return CallInfo(self._raise_for_status(raw, call, request), request=request)
        except BaseException as error:
            if not self._may_renew(call, error, request, auth, None if renewed else sent):
                raise
        return await self._send_once(call, True)

    async def _open_once(self, call: Call, renewed: bool = False) -> OpenStream:
        """As `_send_once`, up to the stream's first event."""
        auth, sent, request = self._auth(call), _NOTHING, None
        try:
            sent = await auth.headers(self.backend, call.deadline)
            pool, request = await self.backend.pool(call.origin or self.host), self._request(call, sent)
            exchange = await pool.open(request)
            try:
                raw = Raw(exchange.status, exchange.headers)
                stream = OpenStream(raw, exchange=exchange, request=request)
                if (whole := await stream.read_whole(call.deadline)) is not None:
                    return OpenStream(self._raise_for_status(whole, call, request), request=request)
                if not await stream.read_event(call.deadline):
                    raise stream.interrupted("the stream ended before its first event")
                if (reported := stream.reported_error(stream.events[0])) is not None:
                    raise reported
            except BaseException as error:
                await exchange.close_after(error)
                raise
            return stream
        except BaseException as error:
            if not self._may_renew(call, error, request, auth, None if renewed else sent):
                raise
        return await self._open_once(call, True)

    def _may_renew(self, call: Call, error: BaseException, request: HttpRequest | None, auth: Auth, sent: Sent) -> bool:
        """Take what is secret out of an attempt's error: whether what was sent had expired, and others may be had."""
        if request is not None and isinstance(error, APIError):
            call.queued = request.queued
            name_server(error, call.origin or self.host, call.timeout.connect, call.timeout.total)
            request.redaction.error(error)
        hide_frames(error)
        if sent is None or not isinstance(error, APIStatusError) or error.raw is None:
            return False
        return is_expired_response(error.raw) and auth.on_rejected(sent, self.backend.clock())

    def _auth(self, call: Call) -> Auth:
        if self.closed:
            raise RuntimeError("this client is closed, as it is at the end of its block; make a new one.")
        auth = self._auths.get(call.origin or self.host) or self._auths.get(f"{call.origin}{call.logged}")
        if auth is None:
            raise ConfigError(f"this client has no credentials for {call.origin}, and sends it those of no other host.")
        return auth

    def _raise_for_status(self, raw: Raw, call: Call, request: HttpRequest) -> Raw:
        if 200 <= raw.status < 300:
            return raw
        raw = request.redaction.raw(raw)  # before its text is cut anywhere
        raise status_error(raw, wall=self.backend.wall_clock(), url=(call.origin or self.host) + call.logged)

    async def _send_hedged(self, call: Call, *, attempt: Send[InfoT]) -> InfoT:
        """One attempt; where it is slow, the same request once more beside it. The first answer counts."""
        began, health = self.backend.clock(), call.health
        assert health is not None  # the call has begun  # noqa: S101
        delay = health.hedge_delay(call.retry.hedge)
        failures: list[APIError] = []

        async def request(of: Call) -> InfoT:
            try:
                return await attempt(of)
            except APIError as error:
                failures.append(error)
                raise

        def may_start() -> bool:
            call.hedging = health.may_hedge()
            return call.hedging

        if delay is None:
            info = await attempt(call)
        else:
            second = replace(call, hedge=True, hedging=True)
            try:
                info = await self.backend.first_success(
                    lambda: request(call), lambda: request(second), delay, may_start
                )
            except APIError as error:
                failures.remove(error)  # it is counted as every attempt's
                raise
            finally:
                call.hedging = False
                for lost in failures:
                    kind = classify(lost, call.method)
                    health.attempt_failed(kind, failure_cost(kind, lost), self.backend.clock())
        health.times.append(self.backend.clock() - began)
        return info

    def _log(self, call: Call, outcome: str, began: float, attempts: int) -> None:
        level = logging.DEBUG if attempts == 1 and outcome[:1] == "2" else logging.INFO
        seconds = self.backend.clock() - began
        more = {"outcome": outcome, "seconds": seconds, "attempts": attempts}
        told = "%s %s: %s in %.3f s, attempts: %d"
        log.log(level, told, call.method, call.logged, outcome, seconds, attempts, extra=more)

    def _request(self, call: Call, sent: Mapping[str, str]) -> HttpRequest:
        timeout, base = call.timeout, call.origin or self.host
        # Headers are the same object as long as neither the auth's nor the call's own change.
        key = call.origin, call.accept, call.body is None
        made = self._headers.get(key)
        if made is None or made[0] is not sent or (made[1] is not call.headers and made[1] != call.headers):
            own = {"accept": call.accept} if call.body is None else {"accept": call.accept, "content-type": JSON}
            headers = RequestHeaders(base, _own_headers(), own, sent, call.headers)
            redactor = partial(Redaction, sent, call.headers, self.backend.proxy_headers)
            made = self._headers[key] = sent, call.headers, headers, redactor
        when = call.deadline, timeout.connect, timeout.queue, call.fresh
        return HttpRequest(call.method, base + call.path, made[2], call.body, *when, made[3])


async def _unwatched(work: Work[T], read: Callable[[T], ReadT]) -> ReadT:
    return read(await work())


@lru_cache
def _own_headers() -> dict[str, str]:
    return {"user-agent": f"dbllm/{own_version()}", "accept-encoding": "gzip, deflate"}
