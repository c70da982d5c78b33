"""Faults on demand: an endpoint that is slow, refuses, starts cold, or breaks off, as often as it is told to.

They happen before (latency, cold start, statuses) or around (cuts, error frames) the real answer. Which calls are hit
is drawn from a seed, per endpoint in the order in which its calls come. Off unless asked for.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from dbllm.local.access.permissions import only_admins
from dbllm.local.errors import LocalError, Problem, bad_request
from dbllm.local.http.asgi import until_gone
from dbllm.local.http.operations import OBJECT, ApiCall, Operation, object_schema
from dbllm.local.json_values import Json

FAULTS_PATH = "/api/local/faults"
EVERY = "*"
"""In place of an endpoint's name: every endpoint that has no faults of its own."""

CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    502: "BAD_GATEWAY",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
MAX_EVENTS = 4
"""A stream breaks off after one to so many events."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with an endpoint. All of it is off by default; shares are from 0 (never) to 1 (always).

    Attributes:
        latency: seconds that every answer is late.
        jitter: up to so many more, drawn anew for each.
        statuses: HTTP status (400 to 599) → share of the calls that are answered with it.
        retry_after: the Retry-After of such answers: seconds, or a text as it stands.
        cold_start: seconds that the first call, and whoever comes meanwhile, waits for.
        cut: share of the answers that break off: a stream after some events, another answer in its middle.
        error_frame: share of the streams that end in an error frame after some events.
        seed: another one hits other calls.

    Raises:
        ValueError: a value that cannot be.
    """

    latency: float = 0.0
    jitter: float = 0.0
    statuses: Mapping[int, float] = field(default_factory=dict)
    retry_after: float | str | None = None
    cold_start: float = 0.0
    cut: float = 0.0
    error_frame: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("latency", "jitter", "cold_start"):
            if not 0 <= _check_number(name, getattr(self, name)) <= 3600:
                raise ValueError(f"'{name}' is in seconds, from 0 to 3600")
        shares = {"cut": self.cut, "error_frame": self.error_frame, **{str(k): v for k, v in self.statuses.items()}}
        for name, share in shares.items():
            if not 0 <= _check_number(name, share) <= 1:
                raise ValueError(f"'{name}' is a share, from 0 to 1")
        if not all(type(status) is int and 400 <= status <= 599 for status in self.statuses):
            raise ValueError("the keys of 'statuses' are from 400 to 599")
        if sum(self.statuses.values()) > 1 or self.cut + self.error_frame > 1:
            raise ValueError("the shares of 'statuses', and those of 'cut' and 'error_frame', are 1 at most in sum")
        if type(self.seed) is not int:
            raise ValueError("'seed' is an integer")
        hint = self.retry_after
        if isinstance(hint, str) and not (hint.isascii() and hint.isprintable()):
            raise ValueError("'retry_after' must be printable ASCII")
        if hint is not None and not isinstance(hint, str):
            _check_number("retry_after", hint)


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to one call."""

    wait: float
    status: int | None
    ending: str | None
    events: int


def plan(fault: Fault, draw: random.Random) -> Plan:
    """Draw what happens to the next call: always the same number of draws, so that one share does not move another."""
    late, fault_problem, ending = draw.random(), draw.random(), draw.random()
    status = None
    for candidate, share in fault.statuses.items():
        if 0 <= fault_problem < share:
            status = candidate
            break
        fault_problem -= share
    end = "cut" if ending < fault.cut else "error" if ending < fault.cut + fault.error_frame else None
    return Plan(fault.latency + late * fault.jitter, status, end, draw.randint(1, MAX_EVENTS))


class Faults:
    """The faults of a workspace's endpoints.

    Args:
        wanted: by the name of the endpoint, or "*".
        now: seconds on a clock that only goes forward.
    """

    def __init__(self, wanted: Mapping[str, Fault] | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._wanted: dict[str, _Endpoint] = {}
        for name, fault in (wanted or {}).items():
            self.set(name, fault)

    def set(self, name: str, fault: Fault | None) -> None:
        """Begin an endpoint's faults (anew), or end them with None."""
        if fault is None:
            self._wanted.pop(name, None)
        else:
            self._wanted[name] = _Endpoint(fault, random.Random(f"{fault.seed}"))

    async def around(self, name: str, request: Request, answer: Callable[[], Awaitable[Response]]) -> Response:
        """The answer of the endpoint `name`, with its faults.

        Raises:
            Problem: the fault is to be refused, or `answer` raised it.
        """
        endpoint = self._wanted.get(name) or self._wanted.get(EVERY)
        if endpoint is None:
            return await answer()
        plan_of_call = plan(endpoint.fault, endpoint.draw)
        wait = plan_of_call.wait + endpoint.warming(self._now())
        if wait > 0:
            await until_gone(request.receive, asyncio.sleep(wait))
        if plan_of_call.status is not None:
            raise fault_problem(plan_of_call.status, endpoint.fault.retry_after)
        response = await answer()
        return response if plan_of_call.ending is None else _Broken(response, plan_of_call)

    def operations(self) -> list[Operation]:
        """The local API (not Databricks'): look at faults, set those of an endpoint, end them."""
        number, name = {"type": "number", "minimum": 0}, {"endpoint": {"type": "string"}}
        shape: dict[str, object] = {one.name: number for one in fields(Fault) if one.type == "float"}
        shape |= {"statuses": OBJECT, "retry_after": {}, "seed": {"type": "integer"}}
        return [
            Operation("GET", FAULTS_PATH, self._show, "Faults of endpoints"),
            Operation(
                "PUT", FAULTS_PATH, self._put, "Give an endpoint faults", object_schema("endpoint", **name, **shape)
            ),
            Operation(
                "DELETE", FAULTS_PATH, self._delete, "End an endpoint's faults", object_schema("endpoint", **name)
            ),
        ]

    def _show(self, _call: ApiCall) -> Json:
        # The dictionary is copied: calls look into it on another thread.
        return {"faults": {name: asdict(one.fault) for name, one in dict(self._wanted).items()}}

    def _put(self, call: ApiCall) -> Json:
        only_admins(call.caller)
        name = _endpoint_name(call)
        try:
            self.set(name, read_fault({key: value for key, value in call.body.items() if key != "endpoint"}))
        except ValueError as error:
            raise bad_request(str(error)) from error
        return self._show(call)

    def _delete(self, call: ApiCall) -> Json:
        only_admins(call.caller)
        self.set(_endpoint_name(call), None)
        return self._show(call)


class _Endpoint:
    """An endpoint's faults and how far they have come."""

    def __init__(self, fault: Fault, draw: random.Random) -> None:
        self.fault = fault
        self.draw = draw
        self._warm_at: float | None = None

    def warming(self, now: float) -> float:
        """Seconds until the endpoint is warm; its first call starts it."""
        if self._warm_at is None:
            self._warm_at = now + self.fault.cold_start
        return max(0.0, self._warm_at - now)


class _Broken(Response):
    """An answer that breaks off. Whoever makes it sees a client that went away, so no model runs on."""

    def __init__(self, response: Response, plan_of_call: Plan) -> None:
        super().__init__()
        self._response = response
        self._plan = plan_of_call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        over = asyncio.Event()
        streams, left = False, self._plan.events

        async def until_over() -> Message:
            waiting = [asyncio.ensure_future(receive()), asyncio.ensure_future(over.wait())]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                received = waiting[0]
                return received.result() if received.done() else {"type": "http.disconnect"}  # type: ignore[return-value]
            finally:
                for one in waiting:
                    one.cancel()

        async def send_until_over(message: Message) -> None:
            nonlocal streams, left
            if over.is_set():
                return
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"")
                streams = kind.startswith(b"text/event-stream")
                await send(message)
                return
            body = message.get("body", b"")
            if not streams and self._plan.ending == "cut" and body:
                await send({**message, "body": body[: len(body) // 2], "more_body": True})
                over.set()
                return
            await send(message)
            left -= bool(streams and body)
            if streams and left <= 0:
                if self._plan.ending == "error":
                    await send({"type": "http.response.body", "body": ERROR_FRAME, "more_body": False})
                over.set()

        await self._response(scope, until_over, send_until_over)


ERROR_FRAME = (
    "data: "
    + json.dumps({"error": {"error_code": "INTERNAL_ERROR", "message": "An injected fault ended this stream."}})
    + "\n\ndata: [DONE]\n\n"
).encode()


def fault_problem(status: int, retry_after: float | str | None) -> Problem:
    """The answer of a call that is refused."""
    code = CODES.get(status, "INTERNAL_ERROR" if status >= 500 else "BAD_REQUEST")
    hint = f"{retry_after:g}" if isinstance(retry_after, int | float) else retry_after
    words = f"An injected fault refused this call with the status {status}."
    return Problem(status, code, words, {} if hint is None else {"retry-after": hint})


def read_fault(settings: Mapping[str, Any]) -> Fault:
    """A fault of plain JSON.

    Raises:
        ValueError: a name or value that cannot be.
    """
    known = [one.name for one in fields(Fault)]
    for name in settings:
        if name not in known:
            raise ValueError(f"there is no fault '{name}'; there are {', '.join(known)}")
    statuses = settings.get("statuses", {})
    if not isinstance(statuses, Mapping) or not all(str(status).isdecimal() for status in statuses):
        raise ValueError("'statuses' is an object of HTTP statuses and their shares")
    return Fault(**{**settings, "statuses": {int(status): share for status, share in statuses.items()}})


def parse_fault(text: str) -> tuple[str, Fault]:
    """A fault as the command line has it: `smollm2-chat:latency=0.2,429=0.1,seed=7`; `*` means every endpoint.

    Raises:
        LocalError: it has another form.
    """
    name, colon, pairs = text.partition(":")
    settings: dict[str, object] = {}
    statuses: dict[str, float] = {}
    try:
        if not name or not colon:
            raise ValueError("it begins with the name of an endpoint, or *, and a colon")
        for pair in pairs.split(","):
            key, sign, value = (part.strip() for part in pair.partition("="))
            if not sign:
                raise ValueError(f"'{pair}' is not of the form name=value")
            if key.isdecimal():
                statuses[key] = _parse_number(key, value)
            else:
                settings[key] = value if key == "retry_after" else _parse_number(key, value)
        return name, read_fault({**settings, "statuses": statuses})
    except ValueError as error:
        raise LocalError(f"--fault {text}: {error}.") from None


def _parse_number(name: str, text: str) -> float:
    kind = int if name == "seed" else float
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} must be {'a whole number' if kind is int else 'a number'}, got '{text}'") from None


def _check_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"'{name}' is a number")
    return value


def _endpoint_name(call: ApiCall) -> str:
    name = call.body.get("endpoint")
    if not isinstance(name, str) or not name:
        raise bad_request("'endpoint' must be the name of an endpoint, or *")
    return name
