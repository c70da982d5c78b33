"""The candidates for the fast engine, as clients of one shape, for `engines.py`.

Each is made by `(host, ca=, proxy=, total=, connect=, attempts=)` and has dbllm's `endpoint(name)` with `chat` and
`stream_chat`, and `aclose`. Nothing is imported before a candidate is made: each pays for its own imports and threads.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
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
    """dbllm over pyreqwest natively: what a leaf of its own would be, without httpx's requests and answers."""
    return ours(host, http_client=Native(rust(ca, proxy)), **options)


class Native:
    """As much of an `httpx.AsyncClient` as dbllm asks for, by pyreqwest."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def build_request(self, method: str, url: str, headers: Any, content: bytes | None, timeout: Any) -> Any:
        built = self._client.request(method, url).headers(dict(headers))
        return built if content is None else built.body_bytes(content)

    async def send(self, built: Any, **_settings: Any) -> Answer:
        """Up to the answer's head."""
        opened = AsyncExitStack()
        with as_httpx():
            return Answer(await opened.enter_async_context(built.build_streamed()), opened)

    async def aclose(self) -> None:
        await self._client.close()


class as_httpx:  # noqa: N801 - read as a word of the `with`
    """pyreqwest's errors as those of httpx."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, _traceback: Any) -> None:
        import httpx
        from pyreqwest import exceptions

        if isinstance(error, exceptions.PyreqwestError):
            unreached = isinstance(error, exceptions.ConnectError)
            raise (httpx.ConnectError if unreached else httpx.ReadError)(str(error)) from error


class Answer:
    """As much of an `httpx.Response` as dbllm asks for."""

    def __init__(self, response: Any, opened: AsyncExitStack) -> None:
        self._response, self.aclose = response, opened.aclose
        self.status_code, self.headers = response.status, self

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in self._response.headers.items()]

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        reader = self._response.body_reader
        with as_httpx():
            while (piece := await reader.read()) is not None:
                yield bytes(piece)


class Bare:
    """pyreqwest without dbllm: a typed answer, and nothing else of what dbllm does. `endpoint` is itself, renamed."""

    def __init__(self, host: str, ca: str | None = None, proxy: str | None = None, total: float = 30.0, **_: Any):
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
        async with self._request(text, stream=True).build_streamed() as answer:
            yield self._chunks(answer.body_reader)

    async def _chunks(self, reader: Any) -> AsyncIterator[Any]:
        from dbllm import ChatCompletionChunk

        left = b""
        while (piece := await reader.read()) is not None:
            *events, left = (left + bytes(piece)).split(b"\n\n")
            for event in events:
                if event != b"data: [DONE]":
                    yield ChatCompletionChunk.model_validate_json(event[6:])


ENGINES: dict[str, tuple[Make, str]] = {  # and the package that each adds to dbllm's four
    "dbllm, h11 (default)": (partial(direct, "h11"), ""),
    "dbllm, httptools (fast)": (partial(direct, "httptools"), "httptools"),
    "dbllm over httpx-aiohttp": (over_aiohttp, "httpx-aiohttp"),
    "dbllm over pyreqwest's httpx transport": (over_pyreqwest, "pyreqwest"),
    "dbllm over pyreqwest natively": (on_pyreqwest, "pyreqwest"),
    "pyreqwest alone": (Bare, "pyreqwest"),
}
