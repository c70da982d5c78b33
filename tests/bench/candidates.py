"""The candidates for the fast engine, as clients of one shape, for `engines.py`.

Each is made by `(host, ca=, proxy=, total=, connect=, attempts=)` and has dbllm's `endpoint(name)` with `chat` and
`stream_chat`, and `aclose`. Nothing is imported before a candidate is made: each pays for its own imports and threads.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

Make = Callable[..., Any]


def ours(host: str, total: float = 30.0, connect: float = 10.0, attempts: int = 4, **options: Any) -> Any:
    """dbllm, over whatever the options say."""
    from dbllm import AsyncClient, Retry, Timeout

    return AsyncClient(host, "t", timeout=Timeout(total, connect), retry=Retry(attempts), **options)


def direct(engine: str, host: str, ca: str | None = None, proxy: str | None = None, **options: Any) -> Any:
    """dbllm on sockets of its own."""
    return ours(host, engine=engine, verify=ca or True, proxy=proxy, **options)


def over_aiohttp(host: str, ca: str | None = None, proxy: str | None = None, **options: Any) -> Any:
    """dbllm over aiohttp, by httpx-aiohttp."""
    import httpx
    from httpx_aiohttp import AiohttpTransport

    verify = ssl.create_default_context(cafile=ca) if ca else True
    via = httpx.Proxy(proxy) if proxy else None
    unlimited = httpx.Limits(max_connections=0)  # as aiohttp says it
    return ours(host, transport=AiohttpTransport(verify=verify, proxy=via, limits=unlimited), **options)


def rust(ca: str | None, proxy: str | None) -> Any:
    """pyreqwest's own client."""
    from pyreqwest.client import ClientBuilder
    from pyreqwest.proxy import ProxyBuilder

    builder = ClientBuilder().follow_redirects(False)
    builder = builder.add_root_certificate_pem(Path(ca).read_bytes()) if ca else builder
    return (builder.proxy(ProxyBuilder.all(proxy)) if proxy else builder).build()


def over_pyreqwest(host: str, ca: str | None = None, proxy: str | None = None, **options: Any) -> Any:
    """dbllm over pyreqwest, by its httpx transport."""
    from pyreqwest.compatibility.httpx import HttpxTransport

    return ours(host, transport=HttpxTransport(rust(ca, proxy)), **options)


def on_pyreqwest(host: str, ca: str | None = None, proxy: str | None = None, **options: Any) -> Any:
    """dbllm over pyreqwest natively: a prototype of a wire of its own, put in where the pool asks for one."""
    client, rusty = ours(host, **options), rust(ca, proxy)
    backend = client._transport.backend
    backend.new_connection = lambda: RustWire(rusty, backend.clock)
    return client


class RustWire:
    """As much of a `H1Connection` as calls need; the connections, their pool and the time limit of whole calls
    are pyreqwest's. Streams have no time limit here.
    """

    ready = reusable = True

    def __init__(self, client: Any, now: Callable[[], float]) -> None:
        self._client, self._now = client, now
        self._opened: Any = None
        self.done = False

    def set_deadline(self, deadline: float) -> None:
        """Its request has one."""

    async def send(self, out: Any) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer; pyreqwest reads 64 KiB of the body ahead where it is not told otherwise."""
        built = self._client.request(out.method, out.url).headers(out.headers)
        built = built if out.body is None else built.body_bytes(out.body)
        if b'"stream":true' in (out.body or b""):
            built = built.streamed_read_buffer_limit(0)
        else:
            built = built.timeout(timedelta(seconds=max(0.001, out.deadline - self._now())))
        opened = built.build_streamed()
        with errors_of_dbllm():
            answer = await opened.__aenter__()
        self._opened, self._reader, self.done = opened, answer.body_reader, False
        return answer.status, dict(answer.headers)

    async def read(self) -> bytes:
        """The next piece of the body; b"" at its end."""
        with errors_of_dbllm():
            piece = await self._reader.read_chunk()
        self.done = piece is None
        return bytes(piece or b"")

    async def close(self) -> None:
        """Leave what is under way."""
        if self._opened is not None:
            await self._opened.__aexit__(None, None, None)


@contextmanager
def errors_of_dbllm() -> Iterator[None]:
    """pyreqwest's errors in dbllm's words."""
    from pyreqwest import exceptions

    from dbllm import APIConnectionError, APITimeoutError

    try:
        yield
    except exceptions.RequestTimeoutError as error:
        raise APITimeoutError(innermost(error)) from error
    except exceptions.PyreqwestError as error:
        unsent = isinstance(error, exceptions.ConnectError)
        raise APIConnectionError(innermost(error), sent=not unsent) from error


def innermost(error: Any) -> str:
    """What an error of pyreqwest is about."""
    causes = error.details["causes"] or [{"message": error.message}]
    return str(causes[-1]["message"])


class Bare:
    """pyreqwest without dbllm: a typed answer, and nothing else of what dbllm does. `endpoint` is itself, renamed."""

    def __init__(
        self, host: str, ca: str | None = None, proxy: str | None = None, total: float = 30.0, **_: Any
    ) -> None:
        self._client, self._host, self._total = rust(ca, proxy), host, timedelta(seconds=total)
        self.aclose = self._client.close

    def endpoint(self, name: str) -> Bare:
        other = Bare.__new__(Bare)
        other.__dict__.update(self.__dict__, _url=f"{self._host}/serving-endpoints/{name}/invocations")
        return other

    def _request(self, text: str, **more: Any) -> Any:
        body = {"messages": [{"role": "user", "content": text}], **more}
        return self._client.post(self._url).bearer_auth("t").timeout(self._total).body_json(body)  # type: ignore[attr-defined]

    async def chat(self, text: str) -> Any:
        from dbllm import ChatCompletion

        answer = await self._request(text).build().send()
        return ChatCompletion.model_validate_json(bytes(await answer.bytes()))

    @asynccontextmanager
    async def stream_chat(self, text: str) -> AsyncIterator[AsyncIterator[Any]]:
        async with self._request(text, stream=True).streamed_read_buffer_limit(0).build_streamed() as answer:
            yield self._chunks(answer.body_reader)

    async def _chunks(self, reader: Any) -> AsyncIterator[Any]:
        from dbllm import ChatCompletionChunk

        left = b""
        while (piece := await reader.read_chunk()) is not None:
            *events, left = (left + bytes(piece)).split(b"\n\n")
            for event in events:
                if event != b"data: [DONE]":
                    yield ChatCompletionChunk.model_validate_json(event[6:])


ENGINES: dict[str, tuple[Make, str]] = {  # and the package that each adds to dbllm's own
    "h11 (default)": (partial(direct, "h11"), ""),
    "httptools (fast)": (partial(direct, "httptools"), "httptools"),
    "httpx-aiohttp": (over_aiohttp, "httpx-aiohttp"),
    "pyreqwest's httpx transport": (over_pyreqwest, "pyreqwest"),
    "pyreqwest natively": (on_pyreqwest, "pyreqwest"),
    "pyreqwest without dbllm": (Bare, "pyreqwest"),
}
