"""A chat endpoint that counts what a whole job does to it: how many calls at once, and when each came.

The answer repeats the prompt. A prompt may say how long its answer takes: "… after 60 s".
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter
from typing import Any

_AFTER = re.compile(r"after ([\d.]+) s")


class MeasuringServer:
    """Runs in a thread; `with MeasuringServer(latency=0.1) as server: … server.host`."""

    def __init__(self, latency: float = 0.0) -> None:
        self.latency = latency
        self.clear()

    def clear(self) -> None:
        self.running = self.most_at_once = self.connections = 0
        self.came: list[float] = []
        self.prompts: Counter[str] = Counter()

    @property
    def calls(self) -> int:
        return len(self.came)

    def most_in(self, seconds: float) -> int:
        """The most calls that came within so many seconds."""
        came, first, most = sorted(self.came), 0, 0
        for last, moment in enumerate(came):
            while moment - came[first] > seconds:
                first += 1
            most = max(most, last - first + 1)
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
                    said = await self._answer(json.loads(content)["messages"][-1]["content"])
                answer = json.dumps(said).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
                    + answer
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, prompt: str) -> dict[str, Any]:
        self.came.append(time.monotonic())
        self.prompts[prompt] += 1
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            after = _AFTER.search(prompt)
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
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
