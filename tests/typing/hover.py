"""What an editor shows where a name of `Client` is hovered over: its own verbs, with their arguments.

`python tests/typing/hover.py` asks pyright's language server, and ends with 1 where something is missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
PROGRAM = """from dbllm import AsyncClient, Client
Client
Client().endpoint
Client().endpoint("e").chat
Client().endpoint("e").stream_chat
Client().endpoint("e").embed
Client().request
Client().with_options
Client().endpoints.create
Client().agent("a").respond
AsyncClient
AsyncClient().endpoint
AsyncClient().endpoint("e").chat
"""
SHOWN = [  # of each line after the first
    "class Client( host: str token: profile: timeout: float max_connections: limits:",
    "def endpoint( name: str task: fallback: -> Endpoint A handle for a serving endpoint",
    "def chat( messages: Messages response_model: stop: timeout: **params: Any -> ChatCompletion Call a chat endpoint",
    "def stream_chat( messages: -> Stream[ChatCompletionChunk",
    "def embed( input: batch_size: int -> Embeddings Turn texts into vectors",
    "def request( method: str path: str json: -> Any Call any REST path",
    "def with_options( timeout: retry: headers: tags: -> Client",
    "def create( name: str config: wait: bool -> ServingEndpoint",
    "def respond( input: Items session_id: -> Response",
    "class AsyncClient( host: str token:",
    "def endpoint( name: str -> AsyncEndpoint",
    "def chat( messages: Messages -> ChatCompletion",
]


class LanguageServer:
    """pyright's language server."""

    def __init__(self, folder: Path) -> None:
        command = [str(Path(sys.executable).with_name("pyright-langserver")), "--stdio"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        self._sent = 0

    def tell(self, method: str, params: object) -> None:
        self._send({"method": method, "params": params})

    def ask(self, method: str, params: object) -> Any:
        self._sent += 1
        self._send({"method": method, "params": params, "id": self._sent})
        while True:
            message = self._read()
            if message.get("id") == self._sent and "method" not in message:
                return message.get("result")
            if message.get("method") == "workspace/configuration":
                paths = {
                    "pythonPath": sys.executable,
                    "extraPaths": [str(ROOT)],
                    "analysis": {"extraPaths": [str(ROOT)]},
                }
                self._send({"id": message["id"], "result": [paths for _ in message["params"]["items"]]})
            elif "id" in message:
                self._send({"id": message["id"], "result": None})

    def end(self) -> None:
        self._process.terminate()
        self._process.communicate()

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._to.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._to.flush()

    def _read(self) -> dict[str, Any]:
        size = 0
        while line := self._out.readline().strip():
            if line.lower().startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        message: dict[str, Any] = json.loads(self._out.read(size))
        return message


def hover_texts(folder: Path) -> list[str]:
    """What is shown for the last name of each line of the program."""
    server, uri = LanguageServer(folder), (folder / "program.py").as_uri()
    (folder / "program.py").write_text(PROGRAM)
    folders = [{"uri": folder.as_uri(), "name": "program"}]
    able = {"workspace": {"configuration": True}, "textDocument": {"hover": {"contentFormat": ["plaintext"]}}}
    server.ask("initialize", {"processId": None, "rootUri": uri, "capabilities": able, "workspaceFolders": folders})
    server.tell("initialized", {})
    document = {"uri": uri, "languageId": "python", "version": 1, "text": PROGRAM}
    server.tell("textDocument/didOpen", {"textDocument": document})
    shown = []
    for number, line in enumerate(PROGRAM.splitlines()[1:], 1):
        place = {"line": number, "character": len(line) - 1}
        said = server.ask("textDocument/hover", {"textDocument": {"uri": uri}, "position": place})
        shown.append(" ".join(said["contents"]["value"].split()) if said else "")
    server.end()
    return shown


def main() -> int:
    """Print what is missing; 1 if anything is."""
    with tempfile.TemporaryDirectory() as folder:
        shown = hover_texts(Path(folder))
    flaws = 0
    for line, words, text in zip(PROGRAM.splitlines()[1:], SHOWN, shown, strict=True):
        start = 0
        for word in words.split():
            start = text.find(word, start) + 1
            if not start:
                flaws += 1
                print(f"{line}: {word!r} is missing in: {text[:500]}")
                break
    print(f"{len(shown) - flaws} of {len(shown)} names show their own arguments")
    return 1 if flaws else 0


if __name__ == "__main__":
    sys.exit(main())
