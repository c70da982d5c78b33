"""The commands that call models: complete, chat, embed, predict.

They print plain text (or JSON with --json), so that other programs can read them. The token comes from the
environment or a profile, never from an option: other users of a machine can read a process's arguments.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbllm.cli import console
from dbllm.cli.conversation import Conversation, converse, greet, print_answer, print_stream
from dbllm.cli.options import Pair, client_command, pairs_option, read_pair

if TYPE_CHECKING:
    from dbllm import Client, DriverApp, Endpoint

OURS = frozenset(
    {"prompt", "messages", "input", "stop", "stream", "timeout", "retry", "headers", "extra_body", "tags", "progress"}
)
"""Names that mean something to the SDK, so they cannot be parameters of the model."""


ONE_REQUEST = 100
"""Texts that the SDK embeds with one request: a bar has nothing to show until it is answered."""


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
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="The longest answer.", min=1)]
Temperature = Annotated[float | None, typer.Option("--temperature", help="0 is the least random.", min=0)]
Streamed = Annotated[
    bool | None, typer.Option("--stream/--no-stream", help="Print the answer as it comes.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; with --stream one object for each piece.")]
Name = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The name of a serving endpoint or a model service.")]

models = typer.Typer()


def read_params(param: list[Pair] | None, max_tokens: int | None, temperature: float | None) -> dict[str, Any]:
    """The model's parameters, of the options that have a name of their own and of `--param`.

    Raises:
        typer.BadParameter: one was given twice.
    """
    named = {"max_tokens": max_tokens, "temperature": temperature}
    params: dict[str, Any] = dict(param or ())
    for name, value in named.items():
        if value is None:
            continue
        if name in params:
            raise typer.BadParameter(f"{name} was given twice.", param_hint=f"--{name.replace('_', '-')}")
        params[name] = value
    return params


def _check_target(first: str, second: str | None, driver_app: int | None, **_: object) -> None:
    if driver_app is not None and second is not None:
        raise typer.BadParameter("an endpoint and --app were given: it is one or the other.", param_hint="--app")
    if driver_app is None and second is None and sys.stdin.isatty():
        raise typer.BadParameter("it is missing: dbllm complete ENDPOINT PROMPT.", param_hint="PROMPT")


@client_command(models, check=_check_target)
def complete(
    client: Client,
    first: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="A serving endpoint or model service; not with --app.")
    ],
    second: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="The prompt; without one it is read from a pipe.", show_default=False),
    ] = None,
    driver_app: Annotated[
        int | None, typer.Option("--app", metavar="PORT", help="Ask a driver app on this port, not an endpoint.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster-id", help="The driver app's cluster.", show_default="DATABRICKS_CLUSTER_ID")
    ] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
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
        target, prompt = client.endpoint(first), "-" if second is None else second
    else:
        target, prompt = client.driver_app(driver_app, cluster), first
    prompt, params = console.read_argument(prompt), read_params(param, max_tokens, temperature)
    if stream:
        with target.stream_complete(prompt, stop=stop, **params) as chunks:
            print_stream(chunks, as_json=as_json)
        return
    text = target.complete(prompt, stop=stop, **params)
    print_answer(text, {"text": text}, as_json=as_json)


def _check_message(message: str | None, **_: object) -> None:
    if message is None and sys.stdin.isatty() and not sys.stdout.isatty():
        raise typer.BadParameter("give one: a conversation needs a terminal.", param_hint="MESSAGE")


@client_command(models, check=_check_message)
def chat(
    client: Client,
    name: Name,
    message: Annotated[
        str | None,
        typer.Argument(metavar="MESSAGE", help="What to say; without one it is read from a pipe.", show_default=False),
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    stop: Stop = None,
    param: Param = None,
    stream: Streamed = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a chat endpoint.

    With a MESSAGE once; on a terminal without one it is a conversation (/help shows what can be typed), which ends with
    Ctrl-D. The answer is printed as it comes, unless --no-stream or --json.
    """
    if stream is None:
        stream = not as_json
    params = read_params(param, max_tokens, temperature)
    talk = Conversation(client.endpoint(name), stop, params, stream=stream, as_json=as_json)
    talk.instruct(system or "")
    if message is not None or not sys.stdin.isatty():
        talk.say(console.read_argument("-" if message is None else message))
    else:
        greet(client, name)
        converse(talk)


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

    Prints one JSON list a line, in the order of the texts. On a terminal a bar shows how far many texts are.
    """
    texts = texts or [line.removesuffix("\r") for line in console.read_stdin().split("\n")]
    with console.progress_bar("embedding", len(texts)) if len(texts) > ONE_REQUEST else nullcontext() as progress:
        reply = client.endpoint(name).embed(texts, progress=progress, **dict(param or ()))
    for vector in reply.vectors:
        console.write_json(vector, indent=None)


@client_command(models)
def predict(
    client: Client,
    name: Name,
    body: Annotated[
        str,
        typer.Argument(
            metavar="BODY",
            help='The request: a list of rows, {"inputs": [...]} or another form; @FILE or - (stdin) hold it.',
        ),
    ] = "-",
) -> None:
    """Call a custom model with rows of data.

    The request has a form of MLflow's scoring protocol: dataframe_records, dataframe_split, inputs or instances, and
    "params" may stand beside it. Prints the answer as JSON.
    """
    request = console.load_json(body, rows="dataframe_records")
    known = ("dataframe_records", "dataframe_split", "inputs", "instances", "params")
    forms = {key: request.pop(key) for key in known if key in request}
    console.write_json(client.endpoint(name).predict(**forms, extra_body=request), indent=None)
