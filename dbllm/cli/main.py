"""The command line. Commands import what they need when they run, so that `dbllm --help` is quick."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbllm.cli import console, doctor, endpoints, models, secrets

if TYPE_CHECKING:
    from dbllm.local.driver.server import DriverServer
    from dbllm.local.workspace import Workspace

app = typer.Typer(
    name="dbllm",
    help="Language models that Databricks serves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,  # no boxes for other programs
)


def main() -> None:
    """Run the command line; the entry point of `dbllm`. What cannot work ends with a sentence and exit status 1."""
    from dbllm import DbllmError

    try:
        app()
    except DbllmError as error:
        console.print_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback()
def _root() -> None:
    """Language models that Databricks serves."""


@app.command()
def demo() -> None:
    """See each kind of call, with its code and its answer.

    It starts a local workspace with a real small model for that, and a driver app.
    """
    from dbllm.cli.demo import run

    run()


@app.command(short_help="Run a local workspace, until Ctrl-C.")
def up(
    host: Annotated[str, typer.Option(help="A loopback address; another one only with a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8765,
    token: Annotated[
        str | None, typer.Option(envvar="DBLLM_LOCAL_TOKEN", help="The token that opens it; made up when left out.")
    ] = None,
    state: Annotated[Path | None, typer.Option(help="A folder that keeps token, endpoints and secrets.")] = None,
    model: Annotated[Path | None, typer.Option(help="A GGUF file to answer with.", show_default="SmolLM2")] = None,
    driver: Annotated[
        list[int] | None, typer.Option(help="A port of a driver app to reach; may be repeated.", metavar="PORT")
    ] = None,
    client_id: Annotated[str | None, typer.Option(help="A service principal that gets tokens by OAuth.")] = None,
    client_secret_env: Annotated[
        str, typer.Option(help="The variable that holds its secret (others can read arguments).", metavar="NAME")
    ] = "DATABRICKS_CLIENT_SECRET",  # noqa: S107 - a name
    deploy_seconds: Annotated[float, typer.Option(help="How long deploying an endpoint takes.", min=0)] = 0.5,
    drain: Annotated[float, typer.Option(help="Seconds that open answers get to end after Ctrl-C.", min=0)] = 0.5,
    seed: Annotated[int | None, typer.Option(help="Makes the split of traffic repeatable.")] = None,
    at_once: Annotated[int, typer.Option(help="Calls of models worked on at once; others wait.", min=1)] = 256,
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROVIDER=URL", help="Where a provider of external models is; openai=local: here. May be repeated."
        ),
    ] = None,
    custom: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TARGET", help="A custom model: module:function or a scoring server's URL. Repeatable."
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:FAULT=VALUE,...",
            help="What is wrong with an endpoint (* is every other), such as smollm2-chat:latency=0.2,429=0.1,seed=7. "
            "Repeatable.",
        ),
    ] = None,
    upstream_key: Annotated[
        str | None, typer.Option(envvar="DBLLM_UPSTREAM_KEY", help="Opens the own upstream; made up when left out.")
    ] = None,
) -> None:
    """Run a local workspace that answers with a real small model, until Ctrl-C.

    The standard output can be pasted into a shell: it sets the variables by which clients find the workspace.
    """
    from dbllm.local import Options, Workspace
    from dbllm.local.invocation.faults import parse_fault

    principals = {client_id: _secret(client_secret_env)} if client_id else {}
    Workspace(
        host=host,
        port=port,
        token=token,
        state=state,
        model=model,
        drivers=driver or (),
        principals=principals,
        drain=drain,
        options=Options(
            deploy_seconds=deploy_seconds,
            seed=seed,
            at_once=at_once,
            upstreams=dict(_pair(one, "--upstream") for one in upstream or ()),
            upstream_key=upstream_key,
            customs=dict(_pair(one, "--custom") for one in custom or ()),
            faults=dict(parse_fault(one) for one in fault or ()),
        ),
    ).run(_say_up)


def _secret(variable: str) -> str:
    if not (secret := os.environ.get(variable)):
        raise typer.BadParameter(f"{variable} is not set.", param_hint="--client-secret-env")
    return secret


def _pair(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise typer.BadParameter(f"{text!r} is not of the form name=value.", param_hint=option)
    return name, value


def _say_up(workspace: Workspace) -> None:
    for name, value in workspace.env.items():
        print(f"export {name}={shlex.quote(value)}")
    print(f"# upstream: {workspace.upstream_url} takes the key {workspace.upstream_key}")
    print(f"# ready: {workspace.host} answers (Ctrl-C stops it)", flush=True)


@app.command(short_help="Run a driver app, until Ctrl-C.")
def serve(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL.gguf | module:function]", help="SmolLM2 when left out.")
    ] = None,
    port: Annotated[int, typer.Option(help="3000 to 8000.")] = 7777,
) -> None:
    """Run a driver app: a model that a cluster's driver proxy can reach, until Ctrl-C."""
    from dbllm.local.driver.server import DriverServer

    DriverServer(model, port=port).run(_say_serving)


def _say_serving(driver: DriverServer) -> None:
    print(f"# ready: {driver.url} answers (Ctrl-C stops it)", flush=True)
    print(driver.registration, file=sys.stderr, flush=True)


models.add_to(app)
endpoints.add_to(app)
secrets.add_to(app)
doctor.add_to(app)
