"""A chat endpoint that counts what a whole job does to it: how many calls at once, when each came, and its tokens.

The answer repeats the prompt, and has half of the tokens that it may. A prompt may say how long its answer takes: "…
after 60 s"; or that it comes when so many calls have come: "… after 500 calls".
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter
from typing import Any

_AFTER = re.compile(r"after ([\d.]+) (s|calls)\b")


class MeasuringServer:
    """Runs in a thread; `with MeasuringServer(latency=0.1) as server: … server.host`."""

    def __init__(self, latency: float = 0.0) -> None:
        self.latency = latency
        self.clear()

    def clear(self) -> None:
        self.running = self.most_at_once = self.connections = 0
        self.came: list[float] = []
        self.refusal: tuple[str, dict[str, Any]] | None = None  # a status line and a body, instead of answers
        self.input_tokens: list[int] = []  # of each call, in the order in which they came
        self.output_tokens: list[int] = []
        self.prompts: Counter[str] = Counter()
        self.waited_in_vain = False
        self.hold_from: int | None = None  # the number of the first call whose answer waits until this is another
        self.held = 0

    @property
    def calls(self) -> int:
        return len(self.came)

    def seconds(self) -> float:
        """From the first call to the last."""
        return self.came[-1] - self.came[0]

    def most_in(self, seconds: float, tokens: list[int] | None = None) -> int:
        """The most calls, or tokens of them, that came within so many seconds."""
        weights = tokens or [1] * len(self.came)
        first = total = most = 0
        for moment, weight in zip(self.came, weights, strict=True):
            total += weight
            while moment - self.came[first] > seconds:
                total -= weights[first]
                first += 1
            most = max(most, total)
        return most

    def __enter__(self) -> MeasuringServer:
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024))
        self.host = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._tasks: set[Any] = set()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self._server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"content-length: *(\d+)", head.lower())
                content = await reader.readexactly(int(size[1])) if size else b""
                if head.startswith(b"GET"):  # what is it that is called?
                    said = {"name": "m", "task": "llm/v1/chat", "state": {"ready": "READY"}}
                else:
                    body = json.loads(content)
                    said = await self._answer(body["messages"][-1]["content"], body.get("max_tokens", 4))
                status, said = self.refusal or ("200 OK", said)
                answer = json.dumps(said)
                fields = f"content-type: application/json\r\ncontent-length: {len(answer)}"
                writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n{answer}".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.close()

    async def _while_held(self, number: int) -> None:
        self.held += 1
        try:
            while self.hold_from is not None and number >= self.hold_from:  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.02)
        finally:
            self.held -= 1

    async def _until(self, calls: int, most_seconds: float = 60.0) -> None:
        """Wait for calls that others make; where they wait for this one, it says so in the end."""
        end = time.monotonic() + most_seconds
        while self.calls < calls and not self.waited_in_vain:
            await asyncio.sleep(0.02)
            self.waited_in_vain = time.monotonic() > end

    async def _answer(self, prompt: str, max_tokens: int) -> dict[str, Any]:
        given, made = len(prompt) // 4 + 1, max_tokens // 2
        self.came.append(time.monotonic())
        self.input_tokens.append(given)
        self.output_tokens.append(made)
        self.prompts[prompt] += 1
        number = self.calls
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            if self.hold_from is not None and number >= self.hold_from:
                await self._while_held(number)
            after = _AFTER.search(prompt)
            if after and after[2] == "calls":
                await self._until(int(after[1]))
            else:
                await asyncio.sleep(float(after[1]) if after else self.latency)
        finally:
            self.running -= 1
        message = {"role": "assistant", "content": prompt}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "echo",
            "choices": [choice],
            "usage": {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made},
        }
