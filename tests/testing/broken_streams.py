"""What dbllm raises on each kind of broken stream, and what openai's client does; the README's table is made from it.

python tests/testing/broken_streams.py            says whether the tables of README and guide are what is found now
python tests/testing/broken_streams.py --write    writes them; openai's column anew, where openai is installed
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dbllm import APIError, AsyncClient, Client, Retry, Timeout
from dbllm.testing import Scripted, scripted_workspace

FILE = Path(__file__).with_name("broken_streams.json")
ROOT = Path(__file__).parents[2]
MARKS = "<!-- broken_streams: begin -->", "<!-- broken_streams: end -->"
TEXT = "one two three four five"
SILENT = "**nothing raised**"
WHOLE = "the whole answer"
EVENTS = {"content-type": "text/event-stream"}


def _chat(text: str | None, reason: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    return (
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}).encode() + b"\n\n"
    )


def _raw(body: bytes) -> Callable[[Scripted], None]:
    return lambda scripted: scripted.json(body, headers=EVENTS)


def _fault(name: Any) -> Callable[[Scripted], None]:
    return lambda scripted: scripted.reply(TEXT, fault=name)


VERBS: dict[str, Callable[[Any], Any]] = {
    "stream_chat": lambda client: client.endpoint("m").stream_chat("hi"),
    "stream_complete": lambda client: client.endpoint("text", task="completions").stream_complete("hi"),
    "stream_respond": lambda client: client.endpoint("agent").stream_respond("hi"),
    "driver app": lambda client: client.driver_app(7777).stream_complete("hi"),
}

Write = Callable[[Scripted], None]
ALL, CHAT = tuple(VERBS), ("stream_chat",)
STALL = "nothing more comes (read time-out)"
BROKEN: dict[str, tuple[Write, tuple[str, ...]]] = {  # what comes: how it is written, and for which verbs
    "the connection ends in the middle": (_fault("stream_cut"), ALL),
    "the connection is reset in the middle": (_fault("stream_reset"), ALL),
    "the body ends properly, but early: no finish reason": (_fault("stream_ends_early"), ALL),
    "an event is not valid JSON": (_fault("bad_json"), ALL),
    "an error event in the middle": (_fault("error_frame"), ALL),
    STALL: (_fault("stream_stall"), ALL),
    "the size of an HTTP chunk is no number": (_fault("chunk_garbage"), ALL),
    "no event at all": (_raw(b""), ALL),
    "nothing but `[DONE]`": (_raw(b"data: [DONE]\n\n"), ("stream_chat", "stream_respond")),
    "the body ends inside an event": (_raw(_chat("one two ") + b'data: {"choices": [{"index": 0, "del'), CHAT),
    "an event is JSON, but no chunk": (_raw(_chat("one two ") + b'data: ["three"]\n\n' + _chat(None, "stop")), CHAT),
    "an event is not UTF-8": (_raw(_chat("one ") + b'data: {"choices": "\xff\xfe"}\n\n' + _chat(None, "stop")), CHAT),
}
ONCE = Retry(attempts=1)


def _patience(row: str) -> Timeout:
    return Timeout(total=60, read=0.25 if row == STALL else 60)


def _outcome(read: Callable[[], str]) -> str:
    try:
        text = read()
    except Exception as error:
        return f"`{type(error).__name__}`" + ("" if isinstance(error, APIError) else f" of {type(error).__module__}")
    return WHOLE if text == TEXT else SILENT


def _of_dbllm(verb: Callable[[Any], Any], timeout: Timeout) -> str:
    """The same in plain code and in a loop, or both."""

    def plain() -> str:
        with Client(retry=ONCE, timeout=timeout) as client, verb(client) as stream:
            return "".join(chunk.text for chunk in stream)

    async def in_loop() -> str:
        async with AsyncClient(retry=ONCE, timeout=timeout) as client, verb(client) as stream:
            return "".join([chunk.text async for chunk in stream])

    found = [_outcome(plain), _outcome(lambda: asyncio.run(in_loop()))]
    return " / ".join(dict.fromkeys(found))


def measure() -> dict[str, dict[str, str]]:
    """Row → column → outcome, of dbllm."""
    found: dict[str, dict[str, str]] = {}
    with scripted_workspace() as scripted:
        scripted.settings = replace(scripted.settings, stall=60)
        for row, (write, verbs) in BROKEN.items():
            for name in verbs:
                for _ in range(2):
                    write(scripted)
                found.setdefault(row, {})[name] = _of_dbllm(VERBS[name], _patience(row))
    return found


def measure_openai() -> dict[str, str]:
    """Row → outcome, of openai's client, as the same stream of a chat is read to its end."""
    import openai

    def read(client: Any) -> Iterator[str]:
        messages = [{"role": "user", "content": "hi"}]
        for chunk in client.chat.completions.create(model="m", messages=messages, stream=True):
            yield (chunk.choices[0].delta.content or "") if chunk.choices else ""

    found = {"version": openai.__version__}
    with scripted_workspace() as scripted:
        scripted.settings = replace(scripted.settings, stall=60)
        for row, (write, _) in BROKEN.items():
            write(scripted)
            options: Any = {"api_key": scripted.token, "max_retries": 0, "timeout": 1.0}
            with openai.OpenAI(base_url=scripted.openai_base_url, **options) as client:
                found[row] = _outcome(lambda client=client: "".join(read(client))).replace(" of openai", "")
    return found


def table(found: dict[str, dict[str, str]], openai: dict[str, str]) -> str:
    """The table in Markdown."""
    columns = list(VERBS)
    titles = [f"`{name}`" if "_" in name else name for name in columns]
    lines = [f"| what comes | {' | '.join(titles)} | openai {openai['version']} |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for row, cells in found.items():
        lines.append(f"| {row} | {' | '.join(cells.get(name, '') for name in columns)} | {openai[row]} |")
    return "\n".join(lines)


def short_table(found: dict[str, dict[str, str]], openai: dict[str, str]) -> str:
    """The table with one column for all that dbllm raises."""
    lines = [f"| what comes | dbllm | openai {openai['version']} |", "|---|---|---|"]
    for row, cells in found.items():
        lines.append(f"| {row} | {' / '.join(dict.fromkeys(cells.values()))} | {openai[row]} |")
    return "\n".join(lines)


PAGES = {ROOT / "README.md": short_table, ROOT / "dbllm" / "testing" / "GUIDE.md": table}


def inside(page: str) -> str:
    """What stands between the marks of a page."""
    begin, end = MARKS
    return page.partition(f"{begin}\n")[2].partition(f"\n{end}")[0]


def peers() -> dict[str, str]:
    """What openai's client was found to do."""
    found: dict[str, str] = json.loads(FILE.read_text("utf-8"))
    return found


def _with_table(page: str, made: str) -> str:
    begin, end = MARKS
    before, _, rest = page.partition(f"{begin}\n")
    return f"{before}{begin}\n{made}\n{end}{rest.partition(end)[2]}"


def main() -> int:
    """Compare, or write."""
    if "--write" in sys.argv and importlib.util.find_spec("openai") is not None:
        FILE.write_text(json.dumps(measure_openai(), indent=1) + "\n", "utf-8")
    found, stale = measure(), 0
    for path, make in PAGES.items():
        made, page = make(found, peers()), path.read_text("utf-8")
        if "--write" in sys.argv:
            path.write_text(_with_table(page, made), "utf-8")
        elif inside(page) != made:
            stale += 1
            print(f"{path.name} should say:\n{made}")
    return min(stale, 1)


if __name__ == "__main__":
    sys.exit(main())
