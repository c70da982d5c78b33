"""What is measured: the same calls by dbllm, by other clients at their defaults, and by bare sockets.

Run as a program (`clients.py NAME HOST HOST_WITH_DELAY CORE`) it is one client in a process of its own, which takes
orders on its standard input, one JSON per line, and answers each with what it cost.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PATH = "/serving-endpoints/bench/invocations"
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
STREAM = {**CHAT, "stream": True}
TEXTS = {"input": ["text"] * 16}
Calls = dict[str, Callable[[], Any]]


async def counted(chunks: Any) -> int:
    """How many there are; none is held, as in a program that shows them."""
    count = 0
    async for _ in chunks:
        count += 1
    return count


def raw_asyncio(host: str) -> Calls:
    """Sockets and json: as little as Python can do."""
    idle: list[Any] = []
    port = int(host.rpartition(":")[2])

    async def begin(body: dict[str, Any]) -> Any:
        pair = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        data = json.dumps(body).encode()
        fields = f"host: {host[7:]}\r\nauthorization: Bearer t\r\ncontent-type: application/json\r\n"
        pair[1].write(f"POST {PATH} HTTP/1.1\r\n{fields}content-length: {len(data)}\r\n\r\n".encode() + data)
        return pair, await pair[0].readuntil(b"\r\n\r\n")

    async def whole(body: dict[str, Any]) -> Any:
        pair, head = await begin(body)
        answer = json.loads(await pair[0].readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0])))
        idle.append(pair)
        return answer

    async def stream() -> int:
        pair, _ = await begin(STREAM)
        chunks = 0
        while size := int(await pair[0].readline(), 16):
            line = (await pair[0].readexactly(size + 2)).strip()
            if line != b"data: [DONE]":
                json.loads(line[6:])
                chunks += 1
        await pair[0].readline()
        idle.append(pair)
        return chunks

    return {"chat": lambda: whole(CHAT), "stream": stream, "embeddings": lambda: whole(TEXTS)}


def aiohttp(host: str) -> Calls:
    """aiohttp, untyped."""
    library = importlib.import_module("aiohttp")
    session: list[Any] = []

    async def post(body: dict[str, Any]) -> Any:
        if not session:
            session.append(library.ClientSession(headers={"authorization": "Bearer t"}))
        async with session[0].post(host + PATH, json=body) as answer:
            if not body.get("stream"):
                return await answer.json()
            lines = [line async for line in answer.content]
            return sum(1 for line in lines if line.startswith(b"data: {") and json.loads(line[6:]))

    return {"chat": lambda: post(CHAT), "stream": lambda: post(STREAM), "embeddings": lambda: post(TEXTS)}


def httpx(host: str) -> Calls:
    """httpx, untyped; its default of 100 connections, but more patience, or it fails at 256 calls at once."""
    library = importlib.import_module("httpx")
    client = library.AsyncClient(headers={"authorization": "Bearer t"}, timeout=120)
    plain = library.Client(headers={"authorization": "Bearer t"}, timeout=120)

    async def post(body: dict[str, Any]) -> Any:
        return (await client.post(host + PATH, json=body)).json()

    async def stream() -> int:
        async with client.stream("POST", host + PATH, json=STREAM) as answer:
            lines = [line async for line in answer.aiter_lines()]
        return sum(1 for line in lines if line.startswith("data: {") and json.loads(line[6:]))

    sync = lambda: plain.post(host + PATH, json=CHAT).json()  # noqa: E731
    return {"chat": lambda: post(CHAT), "stream": stream, "embeddings": lambda: post(TEXTS), "sync": sync}


def openai(host: str) -> Calls:
    """openai, typed."""
    library = importlib.import_module("openai")
    options = {"base_url": f"{host}/serving-endpoints", "api_key": "t"}
    client, plain = library.AsyncOpenAI(**options), library.OpenAI(**options)

    async def stream() -> int:
        return await counted(await client.chat.completions.create(model="bench", **STREAM))

    return {
        "chat": lambda: client.chat.completions.create(model="bench", **CHAT),
        "stream": stream,
        "embeddings": lambda: client.embeddings.create(model="bench", encoding_format="float", **TEXTS),
        "sync": lambda: plain.chat.completions.create(model="bench", **CHAT),
    }


def databricks_langchain(host: str) -> Calls:
    """databricks-langchain's ChatDatabricks."""
    os.environ.update(DATABRICKS_HOST=host, DATABRICKS_TOKEN="t")
    model = importlib.import_module("databricks_langchain").ChatDatabricks(endpoint="bench", model="bench")

    async def stream() -> int:
        return await counted(model.astream("hello"))

    return {"chat": lambda: model.ainvoke("hello"), "stream": stream, "langchain": lambda: model.ainvoke("hello")}


def databricks_sdk(host: str) -> Calls:
    """The official SDK, which is sync."""
    library = importlib.import_module("databricks.sdk")
    role = importlib.import_module("databricks.sdk.service.serving")
    client = library.WorkspaceClient(host=host, token="t")
    said = [role.ChatMessage(role=role.ChatMessageRole.USER, content="hello")]
    return {"sync": lambda: client.serving_endpoints.query("bench", messages=said)}


def mlflow(host: str) -> Calls:
    """mlflow.deployments, which is sync."""
    os.environ.update(DATABRICKS_HOST=host, DATABRICKS_TOKEN="t")
    client = importlib.import_module("mlflow.deployments").get_deploy_client("databricks")
    return {"sync": lambda: client.predict(endpoint="bench", inputs=CHAT)}


def urllib3(host: str) -> Calls:
    """urllib3, untyped."""
    pool = importlib.import_module("urllib3").PoolManager(maxsize=64)
    fields = {"authorization": "Bearer t"}
    return {"sync": lambda: pool.request("POST", host + PATH, json=CHAT, headers=fields).json()}


def langchain_floor(host: str) -> Calls:
    """langchain-core with a model that answers at once."""
    models = importlib.import_module("langchain_core.language_models.fake_chat_models")
    model = models.FakeListChatModel(responses=["hello"])
    return {"langchain": lambda: model.ainvoke("hello")}


def dbllm(host: str, engine: str | None = "h11") -> Calls:
    """dbllm, typed, as it is installed by default."""
    library = importlib.import_module("dbllm")
    client, plain = library.AsyncClient(host, "t", engine=engine), library.Client(host, "t")
    endpoint, sync = client.endpoint("bench"), plain.endpoint("bench")

    async def stream() -> int:
        async with endpoint.stream_chat("hello") as chunks:
            return await counted(chunks)

    async def arrays() -> Any:
        return (await endpoint.embed(TEXTS["input"])).as_numpy()

    def sync_stream() -> int:
        with sync.stream_chat("hello") as chunks:
            return sum(1 for _ in chunks)

    calls: Calls = {"chat": lambda: endpoint.chat("hello"), "stream": stream, "sync": lambda: sync.chat("hello")}
    calls |= {"embeddings": lambda: endpoint.embed(TEXTS["input"]), "numpy": arrays, "sync stream": sync_stream}
    calls |= {"complete": lambda: endpoint.complete("hello"), "sync embeddings": lambda: sync.embed(TEXTS["input"])}
    if not importlib.util.find_spec("langchain_core"):
        return calls
    models: list[Any] = []

    def model() -> Any:
        if not models:  # not before it is asked for: langchain-core takes more memory than all the rest
            models.append(importlib.import_module("dbllm.langchain").ChatDatabricks(endpoint="bench"))
        return models[0]

    calls |= {"langchain": lambda: model().ainvoke("hello"), "langchain stream": lambda: counted(model().astream("hi"))}
    return calls | {"sync langchain": lambda: model().invoke("hello")}


def dbllm_fast(host: str) -> Calls:
    """dbllm with the extra `fast`."""
    importlib.import_module("httptools")
    return dbllm(host, "httptools")


CLIENTS: dict[str, tuple[Callable[[str], Calls], str]] = {  # and the packages whose versions count
    "raw asyncio": (raw_asyncio, ""),
    "aiohttp": (aiohttp, "aiohttp"),
    "httpx": (httpx, "httpx httpcore"),
    "urllib3": (urllib3, "urllib3"),
    "dbllm": (dbllm, "dbllm h11 pydantic"),
    "dbllm[fast]": (dbllm_fast, "dbllm httptools pydantic"),
    "openai": (openai, "openai"),
    "databricks-sdk": (databricks_sdk, "databricks-sdk"),
    "mlflow": (mlflow, "mlflow-skinny"),
    "databricks-langchain": (databricks_langchain, "databricks-langchain langchain-core"),
    "langchain-core": (langchain_floor, "langchain-core"),
}


def used() -> float:
    """CPU seconds of this process, with all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident() -> float:
    """MiB of memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


async def side_by_side(call: Callable[[], Any], concurrent: int, calls: int) -> None:
    """That many calls, so many at a time."""

    async def worker() -> None:
        for _ in range(calls // concurrent):
            await call()

    await asyncio.gather(*(worker() for _ in range(concurrent)))


async def side_by_side_in_trio(call: Callable[[], Any], concurrent: int, calls: int) -> None:
    """The same in a nursery."""

    async def worker() -> None:
        for _ in range(calls // concurrent):
            await call()

    async with importlib.import_module("trio").open_nursery() as nursery:
        for _ in range(concurrent):
            nursery.start_soon(worker)


async def in_threads(call: Callable[[], Any], concurrent: int, calls: int) -> None:
    """The same in plain code; the loop waits meanwhile."""

    def worker() -> None:
        for _ in range(calls // concurrent):
            call()

    threads = [threading.Thread(target=worker) for _ in range(concurrent)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def cost(call: Callable[[], Any], play: Callable[..., Any], concurrent: int, calls: int) -> dict[str, float]:
    """What the calls take, without those that come first: connections, imports, validators."""
    await play(call, concurrent, 2 * concurrent)
    gc.collect()  # or chance decides on which calls its walk over everything falls
    gc.freeze()
    began, before = time.perf_counter(), used()
    await play(call, concurrent, calls)
    spent, seconds = used() - before, time.perf_counter() - began
    return {"cpu": spent / calls, "rate": calls / seconds, "memory": resident()}


def main(name: str, at_once: str, delayed: str, core: str) -> None:
    """Take orders until the standard input ends."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})
    make = CLIENTS[name][0]
    kinds = {host: make(host) for host in (at_once, delayed)}
    package = sys.modules.get("dbllm")
    print(json.dumps({"kinds": sorted(kinds[at_once]), "dbllm": package and package.__file__}), flush=True)
    loop = asyncio.new_event_loop()
    for line in sys.stdin:
        order = json.loads(line)
        # Some look for their workspace at their first call only.
        os.environ.update(DATABRICKS_HOST=delayed if order["delayed"] else at_once, DATABRICKS_TOKEN="t")
        call = kinds[delayed if order["delayed"] else at_once][order["kind"]]
        amount = order["concurrent"], order["calls"]
        try:
            if order.get("loop") == "trio":
                answer = importlib.import_module("trio").run(cost, call, side_by_side_in_trio, *amount)
            else:
                play = in_threads if order["kind"].startswith("sync") else side_by_side
                answer = loop.run_until_complete(cost(call, play, *amount))
        except Exception as error:  # a client that gives up under load is out of that scene
            answer = {"failed": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
