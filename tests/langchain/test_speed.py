"""What the LangChain classes do at once, and figures of them, each beside a control in the same run."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from langchain_core.outputs import ChatResult

import dbllm
from dbllm.langchain import ChatDatabricks, Databricks
from dbllm.langchain.messages import chat_result

TAKES = 0.05  # seconds of the endpoint for one prompt
REFRESH = 0.5  # seconds of the token endpoint


class Endpoint(BaseHTTPRequestHandler):
    """An endpoint that takes 50 ms, in a workspace whose token endpoint takes as long as `refresh` says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    takes = TAKES
    refresh = 0.0

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def do_GET(self) -> None:
        host = f"http://{self.headers['host']}"
        self._json({"token_endpoint": f"{host}/oidc/v1/token", "oidc_endpoint": f"{host}/oidc", "task": "llm/v1/chat"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/oidc/v1/token":
            self.renew()
            self._json({"access_token": "t0ken-t0ken", "token_type": "Bearer", "expires_in": 3600})
        else:
            self.think()
            self._json({"choices": [{"message": {"role": "assistant", "content": "Good"}}]})

    def think(self) -> None:
        time.sleep(self.takes)

    def renew(self) -> None:
        time.sleep(self.refresh)

    def _json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


async def seconds(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


WAYS = ["abatch", "agenerate", "batch", "generate"]


@pytest.mark.parametrize("way", WAYS)
async def test_prompts_are_under_way_together(host: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint answers none before seven are there: that many at once make 20 prompts take three times one."""
    there, enough = itertools.count(1), threading.Event()

    def think(_: Endpoint) -> None:
        if next(there) == 7:
            enough.set()
        assert enough.wait(20)

    monkeypatch.setattr(Endpoint, "think", think)
    llm = Databricks(endpoint_name="ep", host=host, api_token="dapi-test", task="chat")
    method, prompts = getattr(llm, way), ["hi"] * 20
    await (method(prompts) if way.startswith("a") else asyncio.to_thread(method, prompts))
    await llm.aclose()


@pytest.mark.parametrize("by", ["OAuth", "a token function that blocks"])
async def test_the_loop_goes_on_while_a_token_is_renewed(host: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new token comes only after the loop has seen that it was asked for."""
    asked, seen = threading.Event(), threading.Event()

    def renew(_: Endpoint | None = None) -> str:
        asked.set()
        assert seen.wait(20)
        return "t0ken-t0ken"

    async def watch() -> None:
        await asyncio.to_thread(asked.wait, 20)
        seen.set()  # by the loop, which must have come round

    monkeypatch.setattr(Endpoint, "renew", renew)
    if by == "OAuth":
        monkeypatch.setenv("DATABRICKS_HOST", host)
        monkeypatch.setenv("DATABRICKS_CLIENT_ID", "robot")
        monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "s3cret-s3cret")
    made = ChatDatabricks(model="ep") if by == "OAuth" else ChatDatabricks(model="ep", host=host, api_token=renew)
    await asyncio.gather(made.abatch(["hi"] * 5), watch())
    await made.aclose()


@pytest.mark.speed
@pytest.mark.parametrize("way", WAYS)
async def test_twenty_prompts_take_at_most_three_times_one(host: str, way: str) -> None:
    llm = Databricks(endpoint_name="ep", host=host, api_token="dapi-test", task="chat")
    prompts = ["hi"] * 20
    method = getattr(llm, way)

    async def all_of_them() -> None:
        await (method(prompts) if way.startswith("a") else asyncio.to_thread(method, prompts))

    async def one() -> None:
        await (llm.ainvoke("hi") if way.startswith("a") else asyncio.to_thread(llm.invoke, "hi"))

    await all_of_them()  # opens the connections, and imports what is imported late
    ratios = [await seconds(all_of_them) / await seconds(one) for _ in range(3)]
    print(f"\n{way} of 20 prompts over one prompt:", *(f"{ratio:.2f}" for ratio in ratios))
    assert min(ratios) <= 3
    await llm.aclose()


@pytest.mark.speed
async def test_a_call_costs_little_more_than_langchain_core_and_chat_one_after_the_other(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control is the same object with its answer at hand; 1.1 is usual."""
    monkeypatch.setattr(Endpoint, "takes", 0)
    rounds, calls = 12, 25
    async with dbllm.AsyncClient(host, "t") as client:
        endpoint = client.endpoint("ep")
        reply = await endpoint.chat("hi")

        class AtHand(ChatDatabricks):
            async def _agenerate(self, *args: object, **kwargs: object) -> ChatResult:
                return chat_result(reply, "ep")

        control, ours = (kind(model="ep", host=host, api_token="t") for kind in (AtHand, ChatDatabricks))

        async def both() -> None:
            await control.ainvoke("hi")
            await endpoint.chat("hi")

        async def cost(call: Callable[[], Awaitable[object]]) -> float:
            began = time.thread_time()  # of the thread that calls: the server's threads do not count
            for _ in range(calls):
                await call()
            return time.thread_time() - began

        pairs = [(await cost(lambda: ours.ainvoke("hi")), await cost(both)) for _ in range(rounds)]
        await ours.aclose()
    ratio = min(whole for whole, _ in pairs) / min(parts for _, parts in pairs)
    print(f"\nainvoke over its two parts: {ratio:.2f}")
    assert ratio < 1.4


async def longest_stall(work: Awaitable[object]) -> float:
    """Seconds for which the loop did not come round while something was awaited."""
    worst, stopped = 0.0, False

    async def watch() -> None:
        nonlocal worst
        last = time.perf_counter()
        while not stopped:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    await work
    stopped = True
    await watcher
    return worst


@pytest.mark.speed
@pytest.mark.parametrize("by", ["OAuth", "a token function that blocks"])
async def test_a_token_refresh_does_not_hold_up_the_loop(host: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.5 s of refresh in flight, beside a control that is the same but for the time its refresh takes."""

    def token() -> str:
        time.sleep(Endpoint.refresh)
        return "t0ken-t0ken"

    if by == "OAuth":
        monkeypatch.setenv("DATABRICKS_HOST", host)
        monkeypatch.setenv("DATABRICKS_CLIENT_ID", "robot")
        monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "s3cret-s3cret")

    async def run(refresh: float) -> tuple[float, float]:
        monkeypatch.setattr(Endpoint, "refresh", refresh)
        made = ChatDatabricks(model="ep") if by == "OAuth" else ChatDatabricks(model="ep", host=host, api_token=token)
        began = time.perf_counter()
        stall = await longest_stall(made.abatch(["hi"] * 5))
        await made.aclose()
        return stall, time.perf_counter() - began

    await run(0)  # what is imported at the first call
    pairs = []
    for _ in range(3):
        control, quick = await run(0)
        stall, slow = await run(REFRESH)
        assert slow - quick > REFRESH / 2, "no refresh was in flight"
        pairs.append((stall, control))
    shown = ", ".join(f"{stall * 1000:.1f} (control {control * 1000:.1f})" for stall, control in pairs)
    print(f"\nlongest stall of the loop in ms, {by}: {shown}")
    assert min(stall - control for stall, control in pairs) <= 0.02


PARTS = (
    "import langchain_core.embeddings, langchain_core.language_models.chat_models, "
    "langchain_core.language_models.llms, langchain_core.messages, langchain_core.outputs, "
    "langchain_core.rate_limiters, langchain_core.runnables, "
    "langchain_core.tools, langchain_core.utils.function_calling"
)
MEASURE = """
import time
began = time.process_time()
{parts}
between = time.process_time()
import dbllm.langchain
print((time.process_time() - began) / (between - began))
"""


@pytest.mark.speed
def test_importing_costs_little_more_than_the_parts_of_langchain_core() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(dbllm.__file__).parents[1])}
    command = [sys.executable, "-c", MEASURE.format(parts=PARTS)]
    runs = [float(subprocess.run(command, env=environment, capture_output=True, check=True).stdout) for _ in range(6)]
    ratios = sorted(runs[1:])  # the first one writes the bytecode
    print("\nimport dbllm.langchain over its parts of langchain-core:", *(f"{ratio:.3f}" for ratio in ratios))
    assert ratios[2] <= 1.15


def test_importing_loads_nothing_of_other_peoples_clients() -> None:
    program = "import sys, dbllm.langchain; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.split()
    assert not {"mlflow", "openai", "databricks", "langchain_community", "langchain"} & set(loaded)
