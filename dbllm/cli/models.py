"""The commands that call models: complete, chat, embed, predict.

They print plain text (or JSON with --json), so that other programs can read them. The token comes from the
environment or a profile, never from an option: other users of a machine can read a process's arguments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbllm.cli import console

if TYPE_CHECKING:
    from dbllm import Client, DriverApp, Endpoint, Stream

Host = Annotated[
    str | None,
    typer.Option("--host", help="The workspace's address.", show_default="DATABRICKS_HOST, then the profile's"),
]
Profile = Annotated[str | None, typer.Option("--profile", help="A profile of ~/.databrickscfg.")]
Seconds = Annotated[float | None, typer.Option("--timeout", help="Seconds for the whole call.", show_default="300")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="Text that ends the answer; may be repeated.")]
Param = Annotated[
    list[str] | None,
    typer.Option("--param", help="A parameter of the model, such as temperature=0.1; may be repeated.", metavar="K=V"),
]
Streamed = Annotated[
    bool | None, typer.Option("--stream/--no-stream", help="Print the answer as it comes.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; with --stream one object for each piece.")]
Name = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The serving endpoint's name.")]

OURS = frozenset({"prompt", "messages", "input", "stop", "stream", "timeout", "retry", "headers", "extra_body"})
"""Names that mean something to the SDK, so they cannot be parameters of the model."""


def add_to(app: typer.Typer) -> None:
    """Make them commands of `app`."""
    for command in (complete, chat, embed, predict):
        app.command()(command)


def complete(
    first: Annotated[str, typer.Argument(metavar="ENDPOINT", help="The serving endpoint's name; not with --app.")],
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
    host: Host = None,
    profile: Profile = None,
    timeout: Seconds = None,
) -> None:
    """Ask an endpoint or a driver app for one text.

    dbllm complete dolly "How are you?", or dbllm complete --app 7777 "How are you?"
    """
    endpoint, prompt = _endpoint_and_prompt(first, second, driver_app)
    params = read_params(param)
    with connected(host, profile, timeout) as client:
        if driver_app is None:
            target: Endpoint | DriverApp = client.endpoint(endpoint)
        else:
            target = client.driver_app(driver_app, cluster)
        _complete(target, console.read_argument(prompt), stop, params, stream=bool(stream), as_json=as_json)


def _endpoint_and_prompt(first: str, second: str | None, driver_app: int | None) -> tuple[str, str]:
    if driver_app is not None:
        if second is not None:
            raise typer.BadParameter("an endpoint and --app were given: it is one or the other.", param_hint="--app")
        return "", first
    if second is None:
        raise typer.BadParameter("it is missing: dbllm complete ENDPOINT PROMPT.", param_hint="PROMPT")
    return first, second


def _complete(
    target: Endpoint | DriverApp,
    prompt: str,
    stop: Sequence[str] | None,
    params: Mapping[str, Any],
    *,
    stream: bool,
    as_json: bool,
) -> None:
    if not stream:
        text = target.complete(prompt, stop=stop, **params)
        console.write(_json({"text": text}) if as_json else text)
        return
    with target.stream_complete(prompt, stop=stop, **params) as pieces:
        _show(pieces, as_json=as_json)


def _show(pieces: Stream[Any, Any], *, as_json: bool) -> None:
    """Print a stream as it comes."""
    try:
        for piece in pieces:
            if as_json:
                console.write(piece.model_dump_json(exclude_unset=True))
            else:
                console.write(piece.text, end="")
    finally:
        if not as_json:  # after an error too, so that its line stands alone
            console.write("")


def chat(
    name: Name,
    message: Annotated[
        str | None, typer.Argument(metavar="MESSAGE", help="What to say; - reads it from stdin.", show_default=False)
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    stop: Stop = None,
    param: Param = None,
    stream: Streamed = None,
    as_json: AsJson = False,
    host: Host = None,
    profile: Profile = None,
    timeout: Seconds = None,
) -> None:
    """Talk to a chat endpoint.

    With a MESSAGE once; on a terminal without one it is a conversation, which ends with Ctrl-D. The answer is printed
    as it comes, unless --no-stream or --json.
    """
    if message is None and not console.interactive():
        raise typer.BadParameter("give one (or - for stdin): a conversation needs a terminal.", param_hint="MESSAGE")
    params = read_params(param)
    with connected(host, profile, timeout) as client:
        talk = Conversation(
            client.endpoint(name), stop, params, stream=not as_json if stream is None else stream, as_json=as_json
        )
        if system is not None:
            talk.history.append({"role": "system", "content": system})
        if message is None:
            converse(talk)
        else:
            talk.say(console.read_argument(message))


class Conversation:
    """The messages so far, and how to ask for the next one."""

    def __init__(
        self, endpoint: Endpoint, stop: Sequence[str] | None, params: Mapping[str, Any], *, stream: bool, as_json: bool
    ) -> None:
        self.history: list[dict[str, Any]] = []
        self._endpoint = endpoint
        self._stop = stop
        self._params = params
        self._stream = stream
        self._as_json = as_json

    def say(self, words: str) -> None:
        """Send the user's words after all that was said, print the answer and keep both; on an error neither."""
        messages = [*self.history, {"role": "user", "content": words}]
        answer = self._streamed(messages) if self._stream else self._whole(messages)
        self.history = [*messages, {"role": "assistant", "content": answer}]

    def _whole(self, messages: list[dict[str, Any]]) -> str:
        reply = self._endpoint.chat(messages, stop=self._stop, **self._params)
        console.write(reply.model_dump_json(exclude_unset=True) if self._as_json else reply.text)
        return reply.text

    def _streamed(self, messages: list[dict[str, Any]]) -> str:
        with self._endpoint.stream_chat(messages, stop=self._stop, **self._params) as chunks:
            _show(chunks, as_json=self._as_json)
            return chunks.text


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
        if words.strip():
            try:
                talk.say(words)
            except APIError as error:
                console.print_error(error)


def embed(
    name: Name,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="The texts; without any, the lines of stdin.")
    ] = None,
    param: Param = None,
    host: Host = None,
    profile: Profile = None,
    timeout: Seconds = None,
) -> None:
    """Turn texts into vectors.

    Prints one JSON list a line, in the order of the texts.
    """
    params = read_params(param)
    with connected(host, profile, timeout) as client:
        wanted = texts or [line.removesuffix("\r") for line in console.read_stdin().split("\n")]
        for vector in client.endpoint(name).embed(wanted, **params).vectors:
            console.write(json.dumps(vector))


def predict(
    name: Name,
    body: Annotated[
        str,
        typer.Argument(
            metavar="BODY", help='The request: {"dataframe_records": [...]} or another form; - reads it from stdin.'
        ),
    ] = "-",
    host: Host = None,
    profile: Profile = None,
    timeout: Seconds = None,
) -> None:
    """Call a custom model with rows of data.

    The request has a form of MLflow's scoring protocol: dataframe_records, dataframe_split, inputs or instances, and
    "params" may stand beside it. Prints the answer as JSON.
    """
    with connected(host, profile, timeout) as client:
        request = read_object(console.read_argument(body))
        known = ("dataframe_records", "dataframe_split", "inputs", "instances", "params")
        forms = {key: request.pop(key) for key in known if key in request}
        reply = client.endpoint(name).predict(**forms, extra_body=request)
        console.write(reply.model_dump_json(exclude_unset=True))


@contextmanager
def connected(host: str | None, profile: str | None, timeout: float | None) -> Iterator[Client]:
    """A client by the options that all commands have; failures inside end the command with one line."""
    from dbllm import Client

    with console.failures(), Client(host, profile=profile, timeout=timeout) as client:
        yield client


def read_params(pairs: Sequence[str] | None) -> dict[str, Any]:
    """`k=v` texts as parameters: a value that is JSON is that value, any other is text.

    Raises:
        typer.BadParameter: no `=`, or a name that is not the model's to take.
    """
    params: dict[str, Any] = {}
    for pair in pairs or ():
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise typer.BadParameter(f"{pair!r} is not of the form name=value.", param_hint="--param")
        if key in OURS:
            raise typer.BadParameter(f"{key!r} is no parameter of a model; see --help.", param_hint="--param")
        params[key] = _value(value)
    return params


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_object(text: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the body is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError('the body is a JSON object, such as {"dataframe_records": [{"prompt": "hi"}]}.')
    return found


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
