"""The commands that call models: complete, chat, respond, embed, predict.

What is piped in follows the text that was given as an argument. They print plain text (or JSON with --json), so that
other programs can read them. The token comes from the environment or a profile, never from an option: other users of a
machine can read a process's arguments.
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
    from dbllm import Agent, Client, DriverApp, Endpoint

OURS = frozenset(
    {"prompt", "messages", "input", "stop", "stream", "timeout", "retry", "headers", "extra_body", "tags", "progress"}
    | {"response_model", "strict"}
)
"""Names that mean something to the SDK, so they cannot be parameters of the model."""


APP = "apps/"
"""What stands before the name of an app, as other clients write it."""

ONE_REQUEST = 100
"""Texts that the SDK embeds with one request: a bar has nothing to show until it is answered."""


def read_param(text: str) -> Pair:
    """`name=value` as a parameter of a model: a value that is JSON is that value, any other is text.

    Raises:
        typer.BadParameter: no `=`, or a name that is the SDK's.
    """
    if (name := read_pair(text).name) in OURS:
        raise typer.BadParameter(f"{name!r} is no parameter of a model; see --help.")
    return read_json_pair(text)


def read_json_pair(text: str) -> Pair:
    """`name=value`: a value that is JSON is that value, any other is text.

    Raises:
        typer.BadParameter: no `=`.
    """
    name, value = read_pair(text)
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
Tag = Annotated[
    list[Pair] | None, pairs_option("A tag of the request, for the workspace's records of usage; may be repeated.")
]
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


def _check_target(first: str, second: str | None, driver_app: int | None, tag: list[Pair] | None, **_: object) -> None:
    if driver_app is not None and tag:
        raise typer.BadParameter("a driver app takes no tags.", param_hint="--tag")
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
        typer.Argument(metavar="PROMPT", help="The prompt; what is piped in follows it.", show_default=False),
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
    tag: Tag = None,
    stream: Streamed = None,
    as_json: AsJson = False,
) -> None:
    """Ask an endpoint or a driver app for one text.

    dbllm complete dolly "How are you?", or dbllm complete --app 7777 "How are you?"
    """
    target: Endpoint | DriverApp
    if driver_app is None:
        target, prompt = _tagged(client, tag).endpoint(first), second
    else:
        target, prompt = client.driver_app(driver_app, cluster), first
    prompt, params = console.with_pipe(prompt, "PROMPT"), read_params(param, max_tokens, temperature)
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
        typer.Argument(metavar="MESSAGE", help="What to say; what is piped in follows it.", show_default=False),
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    stop: Stop = None,
    param: Param = None,
    tag: Tag = None,
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
    talk = Conversation(_tagged(client, tag).endpoint(name), stop, params, stream=stream, as_json=as_json)
    talk.instruct(system or "")
    if message is not None or not sys.stdin.isatty():
        talk.say(console.with_pipe(message, "MESSAGE"))
    else:
        greet(client, name)
        converse(talk)


@client_command(models)
def respond(
    client: Client,
    name: Annotated[
        str,
        typer.Argument(
            metavar="AGENT",
            help="An endpoint that speaks Responses, apps/NAME for an app of Databricks Apps, or such an app's https://….",
        ),
    ],
    message: Annotated[
        str | None,
        typer.Argument(metavar="MESSAGE", help="What to say; what is piped in follows it.", show_default=False),
    ] = None,
    custom_input: Annotated[
        list[Pair] | None, pairs_option("An input that this agent defines; may be repeated.", parser=read_json_pair)
    ] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    param: Param = None,
    tag: Tag = None,
    stream: Streamed = None,
    as_json: AsJson = False,
) -> None:
    """Ask an agent, or a model that speaks the Responses format.

    An app takes OAuth alone: a service principal's, or that of `databricks auth login`. The answer is printed as it
    comes, unless --no-stream or --json.
    """
    text, params = console.with_pipe(message, "MESSAGE"), read_params(param, max_tokens, temperature)
    if "max_tokens" in params:
        params["max_output_tokens"] = params.pop("max_tokens")  # its name in this format
    agent, inputs = _agent(_tagged(client, tag), name), dict(custom_input or ()) or None
    if not as_json if stream is None else stream:
        with agent.stream_respond(text, custom_inputs=inputs, **params) as events:
            print_stream(events, as_json=as_json)
        return
    reply = agent.respond(text, custom_inputs=inputs, **params)
    print_answer(reply.text, reply, as_json=as_json)


def _agent(client: Client, name: str) -> Endpoint | Agent:
    if name.startswith(("http://", "https://")):
        return client.agent(url=name)
    return client.agent(name[len(APP) :]) if name.startswith(APP) else client.endpoint(name)


def _tagged(client: Client, tags: list[Pair] | None) -> Client:
    return client.with_options(tags=dict(tags)) if tags else client


@client_command(models)
def embed(
    client: Client,
    name: Name,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="The texts; the lines that are piped in follow.")
    ] = None,
    param: Param = None,
    tag: Tag = None,
) -> None:
    """Turn texts into vectors.

    The texts are those that are named, and then the lines that are piped in. Prints one JSON list a line, in the order
    of the texts. On a terminal a bar shows how far many texts are.
    """
    piped = console.read_pipe() if texts else console.read_stdin()
    texts = [*(texts or ()), *(line.removesuffix("\r") for line in (piped.split("\n") if piped else ()))]
    with console.progress_bar("embedding", len(texts)) if len(texts) > ONE_REQUEST else nullcontext() as progress:
        reply = _tagged(client, tag).endpoint(name).embed(texts, progress=progress, **dict(param or ()))
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
    tag: Tag = None,
) -> None:
    """Call a custom model with rows of data.

    The request has a form of MLflow's scoring protocol: dataframe_records, dataframe_split, inputs or instances, and
    "params" may stand beside it. Prints the answer as JSON.
    """
    if body != "-" and console.read_pipe():
        raise ValueError(
            "BODY was given and text was piped in: it is one or the other. </dev/null leaves the pipe out."
        )
    request = console.load_json(body, rows="dataframe_records")
    known = ("dataframe_records", "dataframe_split", "inputs", "instances", "params")
    forms = {key: request.pop(key) for key in known if key in request}
    if request and not forms.keys() - {"params"}:
        one = ", ".join(f'"{name}": …' for name in request)
        raise ValueError(f"BODY has none of {', '.join(known[:3])} and instances. For one row write [{{{one:.80}}}].")
    console.write_json(_tagged(client, tag).endpoint(name).predict(**forms, extra_body=request), indent=None)
