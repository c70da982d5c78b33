"""Starting and stopping a local workspace."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from urllib.parse import urlsplit

from dbllm.local.access.oauth import TOKEN_SECONDS, Oidc
from dbllm.local.app import create_workspace_app
from dbllm.local.driver.cluster import PORTS
from dbllm.local.errors import LocalError
from dbllm.local.gateway.own_upstream import UPSTREAM_PATH as UPSTREAM
from dbllm.local.gateway.providers import OWN_UPSTREAM, check_upstreams
from dbllm.local.gateway.reach import read_reach
from dbllm.local.http.client import is_loopback
from dbllm.local.http.origins import Origins
from dbllm.local.http.server import GRACE, Service, WebServer, listen
from dbllm.local.invocation.custom_models import Customs
from dbllm.local.management.catalog import ready_endpoints
from dbllm.local.management.endpoint_config import ENDPOINT_NAME
from dbllm.local.model.embeddings import Vectors
from dbllm.local.model.llama import Engine, Job
from dbllm.local.model.weights import default_model
from dbllm.local.options import Options
from dbllm.local.page.page import Page
from dbllm.local.page.request_log import RequestLog
from dbllm.local.running import note_running, taken_port_hint
from dbllm.local.storage.identity import Identity, identity
from dbllm.local.storage.store import Change, Store, opened


class Workspace(Service):
    """A Databricks workspace on loopback, with a real small model behind its endpoints.

        with Workspace() as workspace:
            os.environ.update(workspace.env)

    Or `Workspace(port=8765).run()` to serve in the foreground until Ctrl-C.

    Args:
        host: a loopback address; another one only with a `token` of your own, for the workspace has no TLS.
        port: 0 takes a free one.
        token: the personal access token that opens the workspace; made up (or kept in `state`) when left out.
        state: a folder that keeps token, ids, endpoints and secrets from start to start, encrypted with the key in
            DBLLM_STATE_KEY or in the folder. Without it they are new each time.
        model: a GGUF file; SmolLM2-135M-Instruct, fetched once, when left out.
        drivers: ports of driver apps (3000 to 8000) that the driver proxy reaches from the start.
        principals: client id → secret of service principals, which get tokens by OAuth.
        token_seconds: how long such a token lives.
        drain: seconds that open answers get to end by themselves when the workspace stops.
        options: how long deployments take, and what else can be chosen.
        noted: leave word of it while it runs, so that `Client.local()` and `dbllm env` find it.

    Raises (on entering or running):
        LocalError: with a sentence that says what to do.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        state: str | Path | None = None,
        model: str | Path | None = None,
        drivers: Sequence[int] = (),
        principals: Mapping[str, str] | None = None,
        token_seconds: float = TOKEN_SECONDS,
        drain: float = GRACE,
        options: Options | None = None,
        noted: bool = False,
    ) -> None:
        self._token = check_token(token)
        self._bind = check_bind_address(host, token)
        self._port = port
        self._state = Path(state).expanduser() if state is not None else None
        self._model = Path(model).expanduser() if model is not None else None
        self._drivers = check_drivers(drivers)
        self._oidc = Oidc(principals, token_seconds)
        self._drain = drain
        self._noted = noted
        self._options = options or Options()
        check_upstreams(self._options.upstreams)
        read_reach(self._options.allowed_upstreams)
        self._identity: Identity | None = None
        self._host: str | None = None
        self._page: Page | None = None
        self._log: RequestLog | None = None
        self._endpoint_names: list[str] = []

    def __repr__(self) -> str:
        return f"<Workspace {self._host or 'not running'}>"

    @property
    def host(self) -> str:
        """The URL, such as http://127.0.0.1:8765."""
        if self._host is None:
            raise LocalError("The workspace is not running yet.")
        return self._host

    @property
    def token(self) -> str:
        """The personal access token."""
        return self._who().token

    @property
    def cluster_id(self) -> str:
        """The id of the one cluster, whose driver is this machine."""
        return self._who().cluster_id

    @property
    def workspace_id(self) -> str:
        """The workspace's number, the org in its URLs."""
        return self._who().workspace_id

    @property
    def env(self) -> dict[str, str]:
        """The environment variables by which clients find the workspace."""
        return {"DATABRICKS_HOST": self.host, "DATABRICKS_TOKEN": self.token, "DATABRICKS_CLUSTER_ID": self.cluster_id}

    @property
    def page_url(self) -> str | None:
        """The link that opens the workspace's page in a browser; None if it listens on more than loopback."""
        return None if self._page is None else self._page.url(self.host)

    @property
    def endpoint_names(self) -> list[str]:
        """The serving endpoints that it starts with."""
        return self._endpoint_names

    @property
    def open_requests(self) -> list[str]:
        """What is being answered right now: endpoints or, of other requests, paths."""
        return self._log.open if self._log is not None else []

    @property
    def drain(self) -> float:
        """Seconds that open answers get to end by themselves when the workspace stops."""
        return self._drain

    @property
    def upstream_url(self) -> str:
        """Where the workspace's own model speaks OpenAI's wire format, as a provider would."""
        return self.host + UPSTREAM

    @property
    def upstream_key(self) -> str:
        """The API key of that; none of the workspace's tokens."""
        return self._options.upstream_key or ""

    def _prepare(self, stack: ExitStack) -> WebServer:
        self._identity = stack.enter_context(identity(self._state, self._token))
        store = stack.enter_context(opened(self._state))
        # Before the model is fetched and loaded: a taken port should not cost a minute to find out.
        sock = listen(self._bind, self._port, hint=taken_port_hint(self._port))
        stack.callback(sock.close)
        more = [listen(self._bind, 0, hint="") for _ in fields(Origins)]
        for one in more:
            stack.callback(one.close)
        self._host = url(sock.getsockname())
        stack.callback(self._forget)
        if self._noted:
            stack.enter_context(note_running(sock.getsockname()[1], self.env))
        self._options = with_upstream(self._options, self.upstream_url, store)
        customs = Customs(self._options.customs)
        customs.load()
        engine = Engine(self._model if self._model is not None else default_model())
        stack.callback(engine.close)
        vectors = Vectors()
        vectors.load()
        with ThreadPoolExecutor(1) as thread:  # a notebook, or an async test, has a running loop in this one
            thread.submit(lambda: asyncio.run(check_answers(engine))).result()
        app = create_workspace_app(
            engine,
            vectors,
            self._identity,
            self._drivers,
            self._oidc,
            customs=customs,
            store=store,
            options=self._options,
            origins=Origins(*(url(one.getsockname()) for one in more)),
        )
        ready = (*ready_endpoints(engine.name), *filter(ENDPOINT_NAME.fullmatch, self._options.customs))
        self._endpoint_names = [*dict.fromkeys((*ready, *store.load("endpoint")))]
        secret = (self.token, self.upstream_key)
        log = self._log = RequestLog(app, secret, self._options.on_answer)
        self._page = Page(log, self.env) if is_loopback(self._host) else None
        return WebServer(self._page or log, sock, engine.interrupt, drain=self._drain, more=more)

    def _forget(self) -> None:
        self._host = None

    def _who(self) -> Identity:
        if self._identity is None:
            raise LocalError("The workspace is not running yet.")
        return self._identity


def with_upstream(options: Options, url: str, store: Store) -> Options:
    """The options with the workspace's own upstream in place: its key (kept, unless given) and the URL of "local"."""
    key = options.upstream_key
    if key is None:
        stored = store.load("upstream").get("key")
        key = stored if isinstance(stored, str) else f"local-{secrets.token_hex(16)}"
        if not stored:
            store.commit(Change("upstream", "key", key))
    upstreams = {provider: url if base == OWN_UPSTREAM else base for provider, base in options.upstreams.items()}
    own = urlsplit(url).netloc  # asks for its own key
    return replace(options, upstream_key=key, upstreams=upstreams, allowed_upstreams=(*options.allowed_upstreams, own))


async def check_answers(engine: Engine) -> None:
    """Have the model make one token, so that "ready" means that it answers.

    Raises:
        LocalError: it does not.
    """
    job = Job("chat", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1})
    try:
        async with engine.generate([job]) as pieces:
            async for _ in pieces:
                pass
    except ValueError as error:
        raise LocalError(f"{engine.path} was loaded, but does not answer: {error}") from error


def check_bind_address(host: str, token: str | None) -> str:
    """The address to listen on: loopback, or, with a token that was given, any.

    Raises:
        LocalError: it is not.
    """
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise LocalError(f"--host takes an IP address, such as 127.0.0.1, not {host!r}.") from None
    if not address.is_loopback and token is None:
        raise LocalError(
            f"Without a token the local workspace listens on loopback only, not on {host!r}: others could read a "
            "made-up one, for it has no TLS. Use --host 127.0.0.1, or set DBLLM_LOCAL_TOKEN."
        )
    return host


def url(address: tuple[str, int]) -> str:
    """The URL at which this machine reaches a socket's address."""
    host, port = address[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - all addresses, so loopback, too
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_token(token: str | None) -> str | None:
    """`token`, if it can travel in a header.

    Raises:
        LocalError: it cannot. The text does not show it.
    """
    if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
        raise LocalError("The token must be printable ASCII characters without spaces, and not empty.")
    return token


def check_drivers(ports: Sequence[int]) -> tuple[int, ...]:
    """`ports`, if the driver proxy can reach all of them.

    Raises:
        LocalError: one is out of range.
    """
    for port in ports:
        if port not in PORTS:
            raise LocalError(f"Driver apps listen on ports {PORTS[0]} to {PORTS[-1]}, not on {port}.")
    return tuple(ports)
