"""Each mistake of `support/mistakes.py` is answered with the text that `mistakes.md` has for it.

`DBLLM_WRITE_MISTAKES=1 pytest tests/test_mistakes.py` writes the texts anew; read what has changed before it stays.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.loopback import STREAM_HEAD, Peer, Server, chunk, frame, head
from support.mistakes import TOKEN, World, rows, text_of
from support.modes import run
from support.samples import chat_answer, piece, vectors_answer

TEXTS = Path(__file__).with_name("mistakes.md")
FOUND = {"x-request-id": "req-1"}
TASKS = {"chat": "llm/v1/chat", "vectors": "llm/v1/embeddings", "rows": None, "endless": "llm/v1/chat"}
PROVIDER = {"error_code": "401", "message": "Received error from openai", "external_model_message": {"error": {
    "message": "Incorrect API key provided", "type": "invalid_request_error", "code": "invalid_api_key"}}}  # fmt: skip
REFUSED: dict[str, tuple[int, Any]] = {
    "forbidden": (403, {"error_code": "403", "message": "Invalid access token."}),
    "unauthorized": (401, {"error_code": "401", "message": "Credential was not sent or was of an unsupported type."}),
    "provider-key": (401, PROVIDER),
    "long": (400, {"error_code": "BAD_REQUEST", "message": "prompt is too long: 9000 tokens > 8192 maximum"}),
    "limited": (429, {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "Exceeded rate limit of 10 QPS."}),
    "failing": (500, {"error_code": "INTERNAL_ERROR", "message": "The model raised KeyError: 'prompt'"}),
}
FORMS = {"dataframe_records", "dataframe_split", "inputs", "instances"}
NOT_FOUND = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "The given endpoint does not exist, please retry."}


def workspace(peer: Peer) -> None:
    """A workspace: `chat` answers, `vectors` embeds, and the other endpoints are each wrong in one way."""
    while request := peer.request():
        path = request.line.split(" ")[1].split("?")[0]
        name = path.removeprefix("/serving-endpoints/").removesuffix("/invocations")
        described = path.removeprefix("/api/2.0/serving-endpoints/")
        if path == "/api/2.0/serving-endpoints":
            reply(peer, {"endpoints": [{"name": one} for one in ("chat", "rows", "vectors")]})
        elif described in TASKS:
            reply(peer, {"name": described, "task": TASKS[described]})
        elif path == "/api/invocations":
            reply(peer, {"id": "r", "status": "completed", "output": "hello"})
        elif name in REFUSED:
            reply(peer, REFUSED[name][1], REFUSED[name][0])
        elif name == "page":
            peer.send(head(200, 37, content_type="text/html") + b"<html><title>Sign in</title></html>  ")
        elif name == "redirect":
            reply(peer, {}, 302, location="https://login.example.com/?next=1")
        elif name == "slow":
            peer.wait_gone()
        elif name in ("endless", "broken"):
            peer.send(STREAM_HEAD + frame(piece("Hel")))
            if name == "broken":
                return
            peer.wait_gone()
        elif name == "vectors" and "input" in request.json:
            reply(peer, vectors_answer([0.5]))
        elif name == "chat" and request.json.get("stream"):
            events = (piece("Hel", role="assistant"), piece("lo", "stop"), "[DONE]")
            peer.send(STREAM_HEAD + b"".join(map(frame, events)) + chunk(b""))
        elif name == "chat" and (flaw := refusal(request.json)):
            reply(peer, {"error_code": "INVALID_PARAMETER_VALUE", "message": flaw}, 400)
        elif name == "chat":
            reply(peer, chat_answer())
        elif name == "rows" and FORMS & request.json.keys():
            reply(peer, {"predictions": [1, 2]})
        elif name in TASKS:
            reply(peer, {"error_code": "BAD_REQUEST", "message": f"Wrong body for {name}."}, 400)
        else:
            reply(peer, NOT_FOUND, 404)


def refusal(body: Mapping[str, Any]) -> str:
    """What a chat endpoint says to a body that it does not take."""
    if "messages" not in body:
        return "Missing field: messages"
    if body.get("temperature", 0) > 2:
        return "temperature must be between 0 and 2"
    return "tools: expected a list" if not isinstance(body.get("tools", []), list) else ""


def reply(peer: Peer, content: object, status: int = 200, **headers: str) -> None:
    peer.answer(content, status, x_request_id="req-1", **headers)


def other_server(peer: Peer) -> None:
    """A server with OpenAI's API and no other; what is no HTTP, it refuses."""
    if peer.sock.recv(1, socket.MSG_PEEK)[:1] in b"GP":
        while peer.request():
            peer.answer({"detail": "Not Found"}, 404)
    else:
        peer.sock.recv(65536)
        peer.send(head(400))


def silent(peer: Peer) -> None:
    """A server that never says anything."""
    peer.wait_gone()


def over_tls(peer: Peer) -> None:
    """A server that waits for TLS; what is no greeting of it, it refuses before it needs a certificate."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(peer.sock, server_side=True)
    except OSError:
        pass


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, str]]:
    """A workspace, two servers that are none, and a port where nobody listens."""
    servers = {
        "workspace": Server((workspace,)),
        "plain": Server((other_server,)),
        "tls": Server((over_tls,)),
        "silent": Server((silent,)),
    }
    with socket.socket() as taken:  # bound and not listening: connections are refused, and nobody else gets it
        taken.bind(("127.0.0.1", 0))
        yield {
            "nobody": f"http://127.0.0.1:{taken.getsockname()[1]}",
            **{name: server.host for name, server in servers.items()},
        }
    for server in servers.values():
        server.close()


def shown(text: str, hosts: Mapping[str, str], home: Path) -> str:
    """A text in one line, without what differs from run to run."""
    for name, host in hosts.items():
        text = text.replace(host, f"http://{name}").replace(host.replace("http:", "https:"), f"https://{name}")
        text = text.replace(host.removeprefix("http://"), name)
    text = text.replace(str(home), "~")
    text = re.sub(r" at 0x[0-9a-f]+", " at 0x…", text)
    text = re.sub(
        r"\(((?:http://\w+: )?(?!TypeError)\w*[eE]rror): .*?\)(?=\. [A-Z])", r"(\1: …)", text
    )  # in Python's and OpenSSL's words
    return " ".join(text.split())


def answers(is_async: bool, hosts: Mapping[str, str], tmp_path: Path) -> dict[str, str]:
    """What each mistake is answered with, in one mode."""
    found = {}
    for place, (cause, row) in enumerate(rows(is_async).items()):
        home = tmp_path / str(place)
        home.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(home))

            async def one(row: Any = row, home: Path = home, patch: Any = patch) -> str:
                world = World(is_async, hosts, home, patch)
                try:
                    return await text_of(row, world)
                finally:
                    for client in world.made:
                        closing = client.aclose() if is_async else client.close()
                        if closing is not None:
                            await closing

            text = asyncio.run(one()) if is_async else run("sync", one)
        found[cause] = shown(text, hosts, home)
    return found


def read_texts() -> dict[str, str]:
    """The texts by cause and, where the modes differ, by mode."""
    parts = re.findall(r"^## (.+)\n\n(.+)\n", TEXTS.read_text("utf-8"), re.M)
    return dict(parts)


def test_each_mistake_is_answered_with_what_is_wrong_where_and_what_to_do(
    hosts: dict[str, str], tmp_path: Path
) -> None:
    found: dict[str, str] = {}
    both = {mode: answers(mode == "AsyncClient", hosts, _made(tmp_path / mode)) for mode in ("AsyncClient", "Client")}
    for mode, texts in both.items():
        for cause, text in texts.items():
            others = [each[cause] for each in both.values() if cause in each]
            alike = len({other.replace("Async", "") for other in others}) == 1  # but for the names of the classes
            found[cause if alike else f"{cause} ({mode})"] = max(others, key=len) if alike else text
    if os.environ.get("DBLLM_WRITE_MISTAKES"):
        TEXTS.write_text("# Mistakes\n" + "".join(f"\n## {cause}\n\n{text}\n" for cause, text in found.items()))
    assert not [cause for cause, text in found.items() if TOKEN in text]
    assert read_texts() == found


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
