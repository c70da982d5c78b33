"""Mistakes that a type checker finds before the program runs; each line is checked by mypy and pyright in strict mode.

A line on which one of them finds nothing any more is an error: its `ignore` would be needless.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

import pathlib

from dbllm import AsyncClient, Client, Limits, Retry, Timeout


async def fetch_token() -> str:
    return "t"


def clients() -> None:
    Client(pathlib.Path("https://w.example.com"), "t")  # type: ignore[arg-type]
    Client("h", token=5)  # type: ignore[arg-type]
    Client("h", "t", "profile")  # type: ignore[call-arg]
    Client("h", "t", timeout="30")  # type: ignore[arg-type]
    Client("h", "t", retry=3)  # type: ignore[arg-type]
    Client("h", "t", max_connections="10")  # type: ignore[arg-type]
    Client("h", "t", limits=5)  # type: ignore[arg-type]
    Client("h", "t", tags={"a": 5})  # type: ignore[dict-item]
    Client(api_key="t")  # type: ignore[call-arg]
    AsyncClient(base_url="h")  # type: ignore[call-arg]
    AsyncClient("h", "t", max_retries=3)  # type: ignore[call-arg]
    AsyncClient("h", fetch_token())  # type: ignore[arg-type]
    Retry(max_attempts=3)  # type: ignore[call-arg]
    Timeout(write=5)  # type: ignore[call-arg]
    Limits(rpm=5)  # type: ignore[call-arg]


def plain(client: Client) -> None:
    client.chat  # type: ignore[attr-defined]  # noqa: B018
    client.aclose()  # type: ignore[attr-defined]
    client.with_options(max_retries=2)  # type: ignore[call-arg]
    client.endpoint()  # type: ignore[call-arg]
    client.endpoint("e", temperature=0.1)  # type: ignore[call-arg]
    client.endpoint(5)  # type: ignore[arg-type]
    client.endpoint("e").invoke("hi")  # type: ignore[attr-defined]
    client.endpoint("e").chat()  # type: ignore[call-arg]
    client.endpoint("e").chat(None)  # type: ignore[arg-type]
    client.endpoint("e").chat(["hi"])  # type: ignore[list-item]
    client.endpoint("e").chat("hi", timeout="5")  # type: ignore[arg-type]
    client.endpoint("e").chat("hi").content  # type: ignore[attr-defined]  # noqa: B018
    client.endpoint("e").complete("hi").text  # type: ignore[attr-defined]  # noqa: B018
    client.endpoint("e").stream_chat("hi").choices  # type: ignore[attr-defined]  # noqa: B018
    client.endpoint("e").embed(5)  # type: ignore[arg-type]
    client.request("GET", "/x", data={})  # type: ignore[call-arg]
    client.agent("a").chat("hi")  # type: ignore[attr-defined]
    client.secrets.get("scope/key")  # type: ignore[call-arg]
    client.driver_app(7777, cluster="c")  # type: ignore[call-arg]
    client("e")  # type: ignore[operator]
    client["e"]  # type: ignore[index]
    client.endpoint("e")("hi")  # type: ignore[operator]
    client.endpoint("e")["hi"]  # type: ignore[index]
    client.endpoints["e"]  # type: ignore[index]
    client.endpoints.query("e")  # type: ignore[attr-defined]
    client.endpoint("e").embed("a", "b")  # type: ignore[call-arg, arg-type]
    client.endpoint("e").chat(prompt="hi")  # type: ignore[call-arg]
    client.endpoint("e").complete(messages=[])  # type: ignore[call-arg]
    client.endpoint("e").predict(dataframe=[])  # type: ignore[call-arg]
    client.endpoint("e").stream_chat("hi")[0]  # type: ignore[index]


def replies(client: Client) -> None:
    reply, vectors = client.endpoint("e").chat("hi"), client.endpoint("e").embed("hi")
    for vector in vectors:
        vector.upper()  # type: ignore[attr-defined]
    vectors[0]  # type: ignore[index]
    vectors.tolist()  # type: ignore[attr-defined]
    reply["choices"]  # type: ignore[index]
    reply.strip()  # type: ignore[attr-defined]
    "Answer: " + reply  # type: ignore[operator]
    len(reply)  # type: ignore[arg-type]
    reply.usage.input_tokens  # type: ignore[union-attr]  # noqa: B018
    reply.message["content"]  # type: ignore[index]
    client.endpoint("e").complete(reply)  # type: ignore[arg-type]
    client.endpoint("e").embed(None)  # type: ignore[arg-type]


async def modes(client: AsyncClient, plain: Client) -> None:
    with client:  # type: ignore[attr-defined]
        pass
    async with plain:  # type: ignore[attr-defined]
        pass
    for _ in client.endpoint("e").stream_chat("hi"):  # type: ignore[attr-defined]
        pass
    async for _ in plain.endpoint("e").stream_chat("hi"):  # type: ignore[attr-defined]
        pass
    await client.endpoint("e").stream_chat("hi")  # type: ignore[misc]
    await plain.endpoint("e").chat("hi")  # type: ignore[misc]
    client.endpoint("e").chat("hi")  # type: ignore[unused-coroutine]
    client.endpoint("e").complete("hi").upper()  # type: ignore[attr-defined]
    client.close()  # type: ignore[attr-defined]
    await client  # type: ignore[misc]
    await client.endpoint("e")  # type: ignore[misc]
    next(client.endpoint("e").stream_chat("hi"))  # type: ignore[call-overload]
    async for _ in client.endpoint("e").chat("hi"):  # type: ignore[attr-defined]
        pass
