"""The commands that call models: complete, chat, embed, predict.

They print plain text (or JSON with --json), so that other programs can read them. The token comes from the
environment or a profile, never from an option: other users of a machine can read a process's arguments.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbllm.cli import console
from dbllm.cli.options import Pair, client_command, pairs_option, read_pair

if TYPE_CHECKING:
    from dbllm import Client, DriverApp, Endpoint, Stream

OURS = frozenset({"prompt", "messages", "input", "stop", "stream", "timeout", "retry", "headers", "extra_body", "tags"})
"""Names that mean something to the SDK, so they cannot be parameters of the model."""


def read_param(text: str) -> Pair:
    """`name=value` as a parameter of a model: a value that is JSON is that value, any other is text.

    Raises:
        typer.BadParameter: no `=`, or a name that is the SDK's.
    """
    name, value = read_pair(text)
    if name in OURS:
        raise typer.BadParameter(f"{name!r} is no parameter of a model; see --help.")
    try:
        return Pair(name, json.loads(value))
    except ValueError:
        return Pair(name, value)


Stop = Annotated[list[str] | None, typer.Option("--stop", help="Text that ends the answer; may be repeated.")]
Param = Annotated[
    list[Pair] | None,
    pairs_option("A parameter of the model, such as temperature=0.1; may be repeated.", parser=read_param),
]
Streamed = Annotated[
    bool | None, typer.Option("--stream/--no-stream", help="Print the answer as it comes.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; with --stream one object for each piece.")]
Name = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The name of a serving endpoint or a model service.")]

models = typer.Typer()


def _check_target(first: str, second: str | None, driver_app: int | None, **_: object) -> None:
    if driver_app is not None and second is not None:
        raise typer.BadParameter("an endpoint and --app were given: it is one or the other.", param_hint="--app")
    if driver_app is None and second is None:
        raise typer.BadParameter("it is missing: dbllm complete ENDPOINT PROMPT.", param_hint="PROMPT")


@client_command(models, check=_check_target)
def complete(
    client: Client,
    first: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="A serving endpoint or model service; not with --app.")
    ],
    second: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from stdin.", show_default=False)
    ] = None,
    driver_app: Annotated[
        int | None, typer.Option("--app", metavar="PORT", help="Ask a driver app on this port, not an endpoint.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster-id", help="The driver app's cluster.", show_default="DATABRICKS_CLUSTER_ID")
    ] = None,
    stop: Stop = None,
    param: Param = None,
    stream: Streamed = None,
    as_json: AsJson = False,
) -> None:
    """Ask an endpoint or a driver app for one text.

    dbllm complete dolly "How are you?", or dbllm complete --app 7777 "How are you?"
    """
    target: Endpoint | DriverApp
    if driver_app is None:
        target, prompt = client.endpoint(first), second or ""
    else:
        target, prompt = client.driver_app(driver_app, cluster), first
    prompt, params = console.read_argument(prompt), dict(param or ())
    if stream:
        with target.stream_complete(prompt, stop=stop, **params) as chunks:
            _print_stream(chunks, as_json=as_json)
        return
    text = target.complete(prompt, stop=stop, **params)
    _print_answer(text, {"text": text}, as_json=as_json)


def _print_answer(text: str, value: object, *, as_json: bool) -> None:
    if as_json:
        console.write_json(value, indent=None)
    else:
        console.write(text)


def _print_stream(chunks: Stream[Any, Any], *, as_json: bool) -> None:
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
            console.write(half)


def _check_message(message: str | None, **_: object) -> None:
    if message is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise typer.BadParameter("give one (or - for stdin): a conversation needs a terminal.", param_hint="MESSAGE")


@client_command(models, check=_check_message)
def chat(
    client: Client,
    name: Name,
    message: Annotated[
        str | None, typer.Argument(metavar="MESSAGE", help="What to say; - reads it from stdin.", show_default=False)
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    stop: Stop = None,
    param: Param = None,
    stream: Streamed = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a chat endpoint.

    With a MESSAGE once; on a terminal without one it is a conversation, which ends with Ctrl-D. The answer is printed
    as it comes, unless --no-stream or --json.
    """
    if stream is None:
        stream = not as_json
    talk = Conversation(client.endpoint(name), stop, dict(param or ()), stream=stream, as_json=as_json)
    if system is not None:
        talk.history.append({"role": "system", "content": system})
    if message is None:
        converse(talk)
    else:
        talk.say(console.read_argument(message))


@dataclass
class Conversation:
    """The messages so far, and how to ask for the next one."""

    endpoint: Endpoint
    stop: Sequence[str] | None
    params: Mapping[str, Any]
    stream: bool
    as_json: bool
    history: list[dict[str, Any]] = field(default_factory=list)

    def say(self, words: str) -> None:
        """Send the user's words after the history, and print the answer; both join the history, on an error neither."""
        messages = [*self.history, {"role": "user", "content": words}]
        answer = self._ask(messages)
        content = console.join_surrogates(answer, lone="replace")  # a request cannot hold half a character
        self.history = [*messages, {"role": "assistant", "content": content}]

    def _ask(self, messages: list[dict[str, Any]]) -> str:
        if self.stream:
            with self.endpoint.stream_chat(messages, stop=self.stop, **self.params) as chunks:
                _print_stream(chunks, as_json=self.as_json)
                return chunks.text
        reply = self.endpoint.chat(messages, stop=self.stop, **self.params)
        _print_answer(reply.text, reply, as_json=self.as_json)
        return reply.text


def converse(talk: Conversation) -> None:
    """Read a line, answer it, and again, until Ctrl-D. An answer that failed leaves the conversation as it was."""
    from dbllm import APIError

    try:
        import readline  # noqa: F401 - from now on input() can edit its line and recall the ones before
    except ImportError:  # not on every platform
        pass
    while True:
        try:
            words = input("> ")
        except EOFError:
            console.write("")
            return
        except KeyboardInterrupt:
            console.write("")
            raise
        except UnicodeDecodeError:
            console.print_error("the line is not text in the terminal's encoding; it was not sent.")
            continue
        if words.strip():
            try:
                talk.say(words)
            except (APIError, ValueError) as error:
                console.print_error(error)


@client_command(models)
def embed(
    client: Client,
    name: Name,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="The texts; without any, the lines of stdin.")
    ] = None,
    param: Param = None,
) -> None:
    """Turn texts into vectors.

    Prints one JSON list a line, in the order of the texts.
    """
    texts = texts or [line.removesuffix("\r") for line in console.read_stdin().split("\n")]
    for vector in client.endpoint(name).embed(texts, **dict(param or ())).vectors:
        console.write_json(vector, indent=None)


@client_command(models)
def predict(
    client: Client,
    name: Name,
    body: Annotated[
        str,
        typer.Argument(
            metavar="BODY",
            help='The request: {"dataframe_records": [...]} or another form; @FILE or - (stdin) hold it.',
        ),
    ] = "-",
) -> None:
    """Call a custom model with rows of data.

    The request has a form of MLflow's scoring protocol: dataframe_records, dataframe_split, inputs or instances, and
    "params" may stand beside it. Prints the answer as JSON.
    """
    request = console.load_json(body)
    known = ("dataframe_records", "dataframe_split", "inputs", "instances", "params")
    forms = {key: request.pop(key) for key in known if key in request}
    console.write_json(client.endpoint(name).predict(**forms, extra_body=request), indent=None)
