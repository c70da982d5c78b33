"""A driver app: a model behind the small HTTP server that Databricks' driver proxy expects on a cluster's driver node.

    POST /  {"prompt": str, "stop"?: [str], ...params}   ->   a JSON string

With `Accept: text/event-stream` the answer comes piece by piece: `data: <JSON string>` ... `data: [DONE]`.
`GET /health` answers once the model is loaded. The model is a GGUF file or a Python callable
`fn(prompt, stop=None, **params)` that returns the text, awaits it, or yields it in pieces (sync or async).

    with DriverServer("my_module:answer", port=7777) as app:
        ...

`dbllm serve` is the same in the foreground. Needs the extra: pip install 'dbllm[local]'.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing, suppress
from pathlib import Path

import httpx
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dbllm import PromptRequest
from dbllm.local import LocalError
from dbllm.local.errors import Problem
from dbllm.local.extras import missing_extra
from dbllm.local.json_values import json_type

try:
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route, Router
    from starlette.types import ASGIApp

    from dbllm.local.driver.cluster import DRIVER_APPS as REGISTRY
    from dbllm.local.driver.cluster import PORTS
    from dbllm.local.http.asgi import MEGABYTE, EventStream, decode_json, read_body, until_gone
    from dbllm.local.http.caller import check_host, check_origin, is_json
    from dbllm.local.http.client import is_loopback
    from dbllm.local.http.middleware import ErrorMiddleware
    from dbllm.local.http.server import Service, WebServer, listen
    from dbllm.local.invocation import callables, requests
    from dbllm.local.invocation.callables import (
        Answerer,
        Prompt,
        RefusedError,
        as_answerer,
        call_arguments,
        load_callable,
    )
    from dbllm.local.model import llama as engines
    from dbllm.local.model.weights import default_model
except ModuleNotFoundError as error:
    raise LocalError(missing_extra(error.name or "a package")) from error

MAX_BODY = 16 * MEGABYTE
DRIVER_PORT_HINT = "Stop what listens there, or choose another port with --port."


class DriverServer(Service):
    """A driver app in a background thread; or `run()` it in the foreground until Ctrl-C.

    Args:
        model: a GGUF file, a callable, or "module:function"; SmolLM2-135M-Instruct, fetched once, when left out.
        port: 3000 to 8000, what the driver proxy reaches; 0 takes a free one of these.
        max_body: bytes of a request that are taken.
        allowed_hosts: names of this machine, beside those of loopback, under which it is called (header `Host`).

    It listens on loopback, and on all addresses only on a Databricks cluster (DATABRICKS_RUNTIME_VERSION is set).
    When DATABRICKS_HOST and DATABRICKS_TOKEN name a local workspace, the app's port is registered there while it runs.

    Raises (on entering or running):
        LocalError: with a sentence that says what to do.
    """

    def __init__(
        self,
        model: str | Path | Answerer | None = None,
        *,
        port: int = 7777,
        max_body: int = MAX_BODY,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        if port != 0 and port not in PORTS:
            raise LocalError(
                f"Port {port} cannot be used: the driver proxy reaches ports {PORTS[0]} to {PORTS[-1]} only."
            )
        self._model = model
        self._wanted_port = port
        self._max_body = max_body
        self._allowed_hosts = tuple(allowed_hosts)
        self._port: int | None = None
        self.registration = "not registered"

    def __repr__(self) -> str:
        return f"<DriverServer {self._port or 'not running'}>"

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._port is None:
            raise LocalError("The driver app is not running yet.")
        return self._port

    @property
    def url(self) -> str:
        """Its own URL, without the driver proxy."""
        return f"http://127.0.0.1:{self.port}"

    def _prepare(self, stack: ExitStack) -> WebServer:
        sock = open_port(self._wanted_port)
        stack.callback(sock.close)
        self._port = sock.getsockname()[1]
        answerer, interrupt = self._answerer(stack)
        self.registration = stack.enter_context(_Registered(self.port)).outcome
        app = create_app(
            answerer,
            max_body=self._max_body,
            this_machine_only=is_loopback(sock.getsockname()[0]),
            allowed_hosts=self._allowed_hosts,
        )
        return WebServer(app, sock, before_exit=interrupt)

    def _answerer(self, stack: ExitStack) -> tuple[Answerer, Callable[[], None]]:
        model = self._model
        if callable(model):
            return as_answerer(model), _nothing
        if isinstance(model, str) and not model.endswith(".gguf") and ":" in model:
            return load_callable(model), _nothing
        engine = engines.Engine(Path(model).expanduser() if model is not None else default_model())
        stack.callback(engine.close)
        return gguf_answerer(engine), engine.interrupt


def _nothing() -> None:
    pass


def open_port(port: int) -> socket.socket:
    """A listening socket on `port`, or on a free port of the driver proxy's range when it is 0."""
    host = "0.0.0.0" if os.environ.get("DATABRICKS_RUNTIME_VERSION") else "127.0.0.1"  # noqa: S104 - see DriverServer
    if port:
        return listen(host, port, hint=DRIVER_PORT_HINT)
    for candidate in range(PORTS[-1] - 1, PORTS[0], -1):
        with suppress(LocalError):
            return listen(host, candidate, hint=DRIVER_PORT_HINT)
    raise LocalError(f"No port from {PORTS[0]} to {PORTS[-1]} is free.")


def gguf_answerer(engine: engines.Engine) -> Answerer:
    """A callable that answers with a loaded GGUF model, the prompt in its chat template."""

    async def answer(prompt: str, stop: Sequence[str] | None = None, **params: object) -> AsyncGenerator[str, None]:
        unknown = sorted(params.keys() - set(requests.SAMPLING))
        if unknown:
            raise RefusedError(f"unknown parameter {unknown[0]!r}; known are {', '.join(requests.SAMPLING)}")
        sampling = requests.read_sampling({name: value for name, value in params.items() if value is not None})
        request = {**sampling, **({"stop": list(stop)} if stop else {})}
        try:
            async with engine.generate([requests.prompt_job(prompt, request)]) as pieces:
                async for piece in pieces:
                    yield piece.text
        except engines.EngineRefused as error:
            raise RefusedError(str(error)) from error

    return answer


def create_app(
    answerer: Answerer, *, max_body: int = MAX_BODY, this_machine_only: bool = False, allowed_hosts: Sequence[str] = ()
) -> ASGIApp:
    """The driver app around a callable, as ASGI.

    Args:
        answerer: makes the text.
        max_body: bytes of a request that are taken.
        this_machine_only: refuse what reached this machine by another name, and what a web page of another one sent.
        allowed_hosts: other names of this machine.
    """
    names = frozenset(host.lower() for host in allowed_hosts)

    async def answer(request: Request) -> Response:
        if this_machine_only:
            check_host(request.headers, names)
            check_origin(request.method, request.headers)
        require_json(request.headers.get("content-type", ""))
        prompt = read_prompt(decode_json(await read_body(request, max_body)))
        arguments = call_arguments(answerer, prompt)
        if "text/event-stream" in request.headers.get("accept", ""):
            return EventStream(functools.partial(_emit_pieces, answerer, arguments, prompt.stop))
        answer = callables.whole_text(answerer, arguments, prompt.stop)
        return JSONResponse(await until_gone(request.receive, answer))

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def nothing_here(request: Request) -> Response:
        raise Problem(404, "NOT_FOUND", f"There is no {request.method} {request.url.path}: POST a prompt to /.")

    every_method = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    routes = [
        Route("/", answer, methods=["POST"]),
        Route("/health", health),
        Route("/{rest:path}", nothing_here, methods=every_method),
    ]
    return ErrorMiddleware(Router(routes, redirect_slashes=False))


def require_json(header: str) -> None:
    """Refuse a body that does not say it is JSON: any web page may send text/plain here, without asking.

    Raises:
        Problem: 415, it says something else.
    """
    if not is_json(header):
        sent = f"got {header!r}" if header else "there is none"
        raise Problem(415, "BAD_REQUEST", f"The Content-Type must be application/json (in UTF-8); {sent}.")


def read_prompt(body: object) -> Prompt:
    """A request of the schema of Databricks' driver apps. Pure.

    Raises:
        Problem: 400 with the reason.
    """
    try:
        request = PromptRequest.model_validate(body)
    except ValidationError as error:
        raise _bad_prompt(error.errors(include_url=False)[0]) from None
    stop = tuple(request.stop or ())
    if "" in stop:
        raise Problem(400, "BAD_REQUEST", _STOP)
    return Prompt(request.prompt, stop, request.params)


_STOP = "'stop' must be a list of strings that are not empty"


def _bad_prompt(flaw: ErrorDetails) -> Problem:
    field = flaw["loc"][0] if flaw["loc"] else ""
    if not field:
        reason = f"the body must be a JSON object with 'prompt', got {json_type(flaw['input'])}"
    elif field == "stop":
        reason = _STOP
    else:
        missing = flaw["type"] == "missing"
        reason = "'prompt' is missing" if missing else f"'prompt' must be a string, got {json_type(flaw['input'])}"
    return Problem(400, "BAD_REQUEST", reason)


async def _emit_pieces(
    answerer: Answerer, arguments: Mapping[str, object], stop: Sequence[str], emit: Callable[[object], Awaitable[None]]
) -> None:
    async with aclosing(callables.pieces(answerer, arguments, stop)) as pieces:
        async for piece in pieces:
            await emit(piece)


class _Registered:
    """Registers the port with the environment's local workspace while it is entered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._host = os.environ.get("DATABRICKS_HOST", "").rstrip("/")
        self._token = os.environ.get("DATABRICKS_TOKEN", "")
        self._done = False
        self.outcome = ""

    def __enter__(self) -> _Registered:
        if not self._host or not self._token or not is_loopback(self._host):
            self.outcome = (
                "not registered with a local workspace: set DATABRICKS_HOST and DATABRICKS_TOKEN to one before "
                f"starting, or start it with `dbllm up --driver {self._port}`"
            )
            return self
        reason = self._send("POST")
        self._done = reason is None
        self.outcome = (
            f"registered with {self._host}"
            if self._done
            else f"not registered with {self._host} ({reason}): start it with `dbllm up --driver {self._port}`"
        )
        return self

    def __exit__(self, *_error: object) -> None:
        if self._done:
            self._send("DELETE")

    def _send(self, method: str) -> str | None:
        """None, or why it did not work."""
        headers = {"authorization": f"Bearer {self._token}"}
        try:
            with httpx.Client(trust_env=False, timeout=5.0) as client:
                answer = client.request(method, self._host + REGISTRY, json={"port": self._port}, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            return type(error).__name__
        return None if answer.is_success else f"HTTP {answer.status_code}"
