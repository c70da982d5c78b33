"""A conversation with a chat model on a terminal: `dbllm chat ENDPOINT`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbllm.cli import console

if TYPE_CHECKING:
    from dbllm import Client, Endpoint, Stream

HELP = """\
/system TEXT  how the model is to behave; no text: show it
/clear        forget all but the system message
/save FILE    write the messages into a new file, as JSON
/help         show this
/exit         end the conversation, as Ctrl-D does
A line that ends in \\ goes on in the next one; a longer text
stands between two lines of \"\"\".
Ctrl-C stops an answer, or drops the line you are typing."""

MAX_HISTORY = 1000
"""Lines that were typed which are kept from one conversation to the next."""


def print_answer(text: str, value: object, *, as_json: bool) -> None:
    """Print a whole answer, as text or as JSON."""
    if as_json:
        console.write_json(value, indent=None)
    else:
        console.write(text)


def print_stream(chunks: Stream[Any, Any], *, as_json: bool) -> None:
    """Print a stream as it comes."""
    half = ""  # of a character that two chunks share
    try:
        for chunk in chunks:
            if as_json:
                console.write_json(chunk, indent=None)
                continue
            text = console.join_surrogates(half + chunk.text)
            half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
            console.write(text.removesuffix(half), end="")
    finally:
        if not as_json:  # after an error too, so that its line stands alone
            console.end_text(half)


@dataclass
class Conversation:
    """The messages so far, and how to ask for the next one."""

    endpoint: Endpoint
    stop: Sequence[str] | None
    params: Mapping[str, Any]
    stream: bool
    as_json: bool
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def system(self) -> str:
        """The system message, or nothing."""
        return str(self.history[0]["content"]) if self.history and self.history[0]["role"] == "system" else ""

    def instruct(self, text: str) -> None:
        """Put a system message at the beginning, in place of the one that was there; no text takes it away."""
        said = self.history[1:] if self.system else self.history
        self.history = [*([{"role": "system", "content": text}] if text else []), *said]

    def clear(self) -> None:
        """Forget what was said, but for the system message."""
        self.history = self.history[:1] if self.system else []

    def say(self, words: str) -> None:
        """Send the user's words after the history, and print the answer; both join the history, on an error neither."""
        messages = [*self.history, {"role": "user", "content": words}]
        answer = self._ask(messages)
        content = console.join_surrogates(answer, lone="replace")  # a request cannot hold half a character
        self.history = [*messages, {"role": "assistant", "content": content}]

    def _ask(self, messages: list[dict[str, Any]]) -> str:
        if self.stream:
            with self.endpoint.stream_chat(messages, stop=self.stop, **self.params) as chunks:
                print_stream(chunks, as_json=self.as_json)
                return chunks.text
        reply = self.endpoint.chat(messages, stop=self.stop, **self.params)
        print_answer(reply.text, reply, as_json=self.as_json)
        return reply.text


def greet(client: Client, name: str) -> None:
    """Say who is talked to, or that this endpoint does not chat.

    Raises:
        ValueError: it does something else. Where the endpoint may be called but not looked up, it is left to the call.
        NotFoundError: there is no such endpoint.
    """
    from dbllm import NotFoundError, PermissionDeniedError

    model = ""
    if "." not in name:
        try:
            endpoint = client.endpoints.get(name)
        except PermissionDeniedError:
            endpoint = None
        except NotFoundError:
            client.endpoint(name).chat("hello", max_tokens=1)  # raises with what there is instead
            raise
        if endpoint is not None:
            if endpoint.task not in ("llm/v1/chat", "agent/v1/chat", "agent/v2/chat"):
                verb = {"llm/v1/embeddings": "embed"}.get(endpoint.task or "", "complete")
                what = f"has the task {endpoint.task}" if endpoint.task else "is a custom model"
                raise ValueError(f"{name} {what} and does not chat: use `dbllm {verb} {name}`.")
            model = _model_of(endpoint)
    console.note(f"{name}{f' ({model})' if model else ''}. /help shows what else you can type; Ctrl-D ends.")


def _model_of(endpoint: Any) -> str:
    for entity in (endpoint.config or {}).get("served_entities") or ():
        for kind in ("foundation_model", "external_model"):
            if found := (entity.get(kind) or {}).get("name"):
                return str(found)
    return ""


def converse(talk: Conversation) -> None:
    """Read a line, answer it, and again, until Ctrl-D. An answer that failed leaves the conversation as it was."""
    from dbllm import APIError

    with _LineHistory():
        while True:
            try:
                words = _read_words()
            except EOFError:
                console.write("")
                return
            except KeyboardInterrupt:
                console.write("")
                continue
            except UnicodeDecodeError:
                console.print_error("the line is not text in the terminal's encoding; it was not sent.")
                continue
            if not words.strip():
                continue
            if words.strip() in ("/exit", "/quit", "/bye"):
                return
            try:
                if (
                    words.startswith("/")
                    and "\n" not in words
                    and (command := words[1:].split())
                    and command[0].isalpha()
                ):
                    obey(talk, command[0], words.partition(" ")[2].strip())
                else:
                    talk.say(words)
            except KeyboardInterrupt:
                console.note("(stopped; neither the question nor this answer is kept)")
            except (APIError, ValueError, OSError) as error:
                console.print_error(error)


def obey(talk: Conversation, command: str, words: str) -> None:
    """Do what a line that begins with "/" says.

    Raises:
        ValueError: there is no such command, or a word is missing.
        OSError: the file cannot be written.
    """
    if command in ("help", "h"):
        console.note(HELP)
    elif command == "clear":
        talk.clear()
        console.note("(forgotten)")
    elif command == "system":
        if words:
            talk.instruct(words)
        console.note(f"system: {talk.system}" if talk.system else "There is no system message; /system TEXT sets one.")
    elif command == "save":
        if not words:
            raise ValueError("/save FILE: it needs the name of a file.")
        if not talk.history:
            raise ValueError("there is nothing to save yet.")
        text = json.dumps(talk.history, ensure_ascii=False, indent=2) + "\n"
        with Path(words).expanduser().open("x", encoding="utf-8", errors="replace") as file:  # it replaces no file
            file.write(text)
        console.note(f"saved: {console.counted(len(talk.history), 'message')} in {words}")
    else:
        raise ValueError(f"there is no /{command}; /help shows what there is. A space before it sends it as text.")


def _read_words() -> str:
    """One message: a line, lines that end in a backslash and the one after them, or what stands between quotes."""
    line = input("> ")
    lines = []
    if line.strip() == '"""':
        while (line := input(". ")).strip() != '"""':
            lines.append(line)
        return "\n".join(lines)
    while line.endswith("\\"):
        lines.append(line[:-1])
        line = input(". ")
    return "\n".join([*lines, line])


class _LineHistory:
    """What was typed can be recalled, also from earlier conversations, where the platform has readline."""

    def __enter__(self) -> None:
        self._file: Path | None = None
        try:
            import readline  # from now on input() can edit its line and recall the ones before
        except ImportError:  # not on every platform
            return
        with suppress(OSError, RuntimeError):
            file = Path(os.environ.get("DBLLM_HISTORY") or Path.home() / ".dbllm" / "history")
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            readline.set_history_length(MAX_HISTORY)
            self._file = file
            readline.read_history_file(file)

    def __exit__(self, *_: object) -> None:
        if self._file is None:
            return
        import readline

        with suppress(OSError):
            # What was said to a model is nobody else's to read.
            os.close(os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600))
            readline.write_history_file(self._file)
