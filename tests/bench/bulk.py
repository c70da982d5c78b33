"""Bulk jobs beside openaivec and a plain script, on one loopback server: what they cost, and what faults do to them.

    python tests/bench/bulk.py [--rows 3000] [--write]      # in an environment with dbllm and openaivec

Each candidate asks a model for each row of a file, 64 at a time, in a process of its own: `dbllm.bulk`; `openaivec`
(one prompt a request, as the others); `gather`: the openai client with asyncio.gather and a semaphore. The server
answers after 5 ms with the prompt. It prints the table of the README; `--write` puts it there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

CONCURRENCY = 64
LATENCY = 0.005
README = Path(__file__).parents[2] / "README.md"
MARKS = "<!-- bulk: begin -->", "<!-- bulk: end -->"
CANDIDATES = ("dbllm.bulk", "openaivec", "gather")


# --- the server -------------------------------------------------------------------------------------------------------


class Server:
    """Answers chats and openaivec's requests with the prompt; counts how often it ran for each."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.storm_until = 0.0
        self.port = 0
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True).start()
        ready.wait()

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await server.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                sizes = head.lower().split(b"content-length:")
                body = await reader.readexactly(int(sizes[1].split(b"\r\n")[0])) if len(sizes) > 1 else b""
                await asyncio.sleep(LATENCY)
                status, content = self._answer(json.loads(body or b"{}"))
                data = json.dumps(content).encode()
                fields = f"content-type: application/json\r\ncontent-length: {len(data)}"
                writer.write(f"HTTP/1.1 {status} Said\r\n{fields}\r\n\r\n".encode() + data)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        if "messages" not in body and "input" not in body:
            return 200, {"name": "m", "task": "llm/v1/chat", "state": {"ready": "READY"}}
        if time.monotonic() < self.storm_until:
            return 429, {"error_code": "REQUEST_LIMIT_EXCEEDED", "error": {"message": "slow down"}}
        asked = json.loads(body["input"])["user_messages"] if "input" in body else []
        prompts = [each["body"] for each in asked] or [body["messages"][-1]["content"]]
        if any("BAD" in prompt for prompt in prompts):
            return 400, {"error_code": "BAD_REQUEST", "error": {"message": "the content filter refused it"}}
        self.runs.update(prompts)
        about = {"id": "x", "created_at": 1, "created": 1, "model": "echo"}
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        if not asked:
            message = {"role": "assistant", "content": prompts[0]}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            return 200, {**about, "object": "chat.completion", "choices": choices, "usage": usage}
        text = json.dumps({"assistant_messages": asked})
        content = [{"type": "output_text", "text": text, "annotations": []}]
        item = {"type": "message", "id": "y", "role": "assistant", "status": "completed", "content": content}
        return 200, {
            **about,
            "object": "response",
            "status": "completed",
            "output": [item],
            "error": None,
            "parallel_tool_calls": False,
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
        }


# --- the candidates ---------------------------------------------------------------------------------------------------


def prompts_of(source: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in Path(source).read_text().splitlines()]


def write(output: str, answers: list[Any]) -> None:
    Path(output).write_text("".join(json.dumps({"output": answer}) + "\n" for answer in answers))


def run_dbllm(host: str, source: str, output: str) -> None:
    from dbllm import AsyncClient, bulk

    endpoint = AsyncClient(host, "token").endpoint("m", task="chat")
    bulk.run_sync(source, output, endpoint=endpoint, concurrency=CONCURRENCY, progress=False)


class _FourBytesAToken:
    def encode_ordinary(self, text: str) -> range:
        return range(len(text) // 4)

    encode = encode_ordinary


def run_openaivec(host: str, source: str, output: str) -> None:
    import tiktoken
    from openai import AsyncOpenAI
    from openaivec import AsyncBatchResponses

    # It counts tokens by a vocabulary that tiktoken fetches when it runs; this stands in for it, and costs it less.
    tiktoken.get_encoding = tiktoken.encoding_for_model = lambda name: _FourBytesAToken()

    client = AsyncOpenAI(base_url=host, api_key="token")
    model = AsyncBatchResponses.of(
        client=client, model_name="gpt-4o", system_message="Answer.", batch_size=1, max_concurrency=CONCURRENCY
    )
    write(output, asyncio.run(model.parse(prompts_of(source))))


def run_gather(host: str, source: str, output: str) -> None:
    from openai import AsyncOpenAI

    async def main() -> list[Any]:
        client, places = AsyncOpenAI(base_url=host, api_key="token"), asyncio.Semaphore(CONCURRENCY)

        async def ask(prompt: str) -> str | None:
            async with places:
                messages: Any = [{"role": "user", "content": prompt}]
                reply = await client.chat.completions.create(model="m", messages=messages)
                return reply.choices[0].message.content

        return await asyncio.gather(*map(ask, prompts_of(source)))

    write(output, asyncio.run(main()))


RUN = {"dbllm.bulk": run_dbllm, "openaivec": run_openaivec, "gather": run_gather}


# --- what is measured -------------------------------------------------------------------------------------------------


class Bench:
    """One candidate on one server."""

    def __init__(self, candidate: str, server: Server, folder: Path) -> None:
        self.candidate, self.server, self.folder = candidate, server, folder
        self.output = folder / "out.jsonl"

    def start(self, rows: list[str]) -> subprocess.Popen[bytes]:
        source = self.folder / "in.jsonl"
        text = "".join(json.dumps({"prompt": row}) + "\n" for row in rows)
        if not source.exists() or source.read_text() != text:
            for path in self.folder.iterdir():
                path.unlink()
            source.write_text(text)
            self.server.runs.clear()
        host = f"http://127.0.0.1:{self.server.port}"
        command = [sys.executable, __file__, "--as", self.candidate, host, str(source), str(self.output)]
        return subprocess.Popen(command, stderr=subprocess.PIPE)

    def answered(self) -> int:
        if not self.output.exists():
            return 0
        return sum(json.loads(line)["output"] is not None for line in self.output.read_text().splitlines())

    def plain(self, number: int) -> tuple[float, float]:
        """Rows a second and CPU seconds a row, without the start of the process (that of a job of one row)."""
        spent = []
        for rows in (["warm"], [f"row {place}" for place in range(number)]):
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            process = self.start(rows)
            _, said = process.communicate()
            assert process.returncode == 0, said.decode()[-2000:]
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            spent.append((time.perf_counter() - began, cpu))
            assert self.answered() == len(rows)
        (wall_1, cpu_1), (wall, cpu) = spent
        return number / (wall - wall_1), (cpu - cpu_1) / number

    def one_bad_row(self, number: int) -> str:
        process = self.start([f"bad {place}" if place != number // 2 else "BAD" for place in range(number)])
        process.communicate()
        return f"{self.answered():,} of {number - 1:,} good rows answered"

    def killed(self, number: int) -> str:
        """Killed at the middle, and run again."""
        process = self.start([f"kill {place}" for place in range(number)])
        while sum(self.server.runs.values()) < number // 2 and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        self.start([f"kill {place}" for place in range(number)]).communicate()
        return f"{sum(self.server.runs.values()) - number:,} rows paid twice"

    def storm(self, number: int) -> str:
        """All requests are refused with 429 for five seconds."""
        process = self.start([f"storm {place}" for place in range(number)])
        while sum(self.server.runs.values()) < number // 4 and process.poll() is None:
            time.sleep(0.005)
        self.server.storm_until = time.monotonic() + 5
        process.communicate()
        self.server.storm_until = 0.0  # whoever gave up at once leaves none of it to the next candidate
        return f"{self.answered():,} of {number:,} rows answered"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--as", nargs=4, dest="candidate")
    words = parser.parse_args()
    if words.candidate:
        name, *rest = words.candidate
        RUN[name](*rest)
        return
    server = Server()
    lines = ["| | rows/s | CPU a row | one bad row | kill -9 in the middle, run again | 429 for five seconds |"]
    lines.append("|---|---|---|---|---|---|")
    print("\n".join(lines))
    for name in CANDIDATES:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(name, server, Path(folder))
            speed, cpu = max(bench.plain(words.rows) for _ in range(int(os.environ.get("ROUNDS", "3"))))
            faults = (bench.one_bad_row(1000), bench.killed(2000), bench.storm(2000))
            lines.append(f"| {name} | {speed:,.0f} | {cpu * 1e6:,.0f} µs | {' | '.join(faults)} |")
            print(lines[-1], flush=True)
    if words.write:
        page = README.read_text("utf-8")
        before, _, rest = page.partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        README.write_text(f"{before}{MARKS[0]}\n{chr(10).join(lines)}\n{MARKS[1]}{after}", "utf-8")


if __name__ == "__main__":
    main()
