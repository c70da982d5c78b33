"""The command line. Commands import what they need when they run, so that `dbllm --help` is quick."""

from __future__ import annotations

import enum
import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbllm.cli import console
from dbllm.cli.bulk import add_bulk
from dbllm.cli.doctor import doctor
from dbllm.cli.endpoints import endpoints
from dbllm.cli.models import models
from dbllm.cli.options import Command, Group, Pair, pairs_option, read_pair
from dbllm.cli.secrets import secrets
from dbllm.cli.services import services

if TYPE_CHECKING:
    from dbllm.local.driver.server import DriverServer
    from dbllm.local.page.request_log import Entry
    from dbllm.local.workspace import Workspace


class Shell(str, enum.Enum):
    """Who reads the variables."""

    sh = "sh"
    fish = "fish"
    powershell = "powershell"
    dotenv = "dotenv"
    notebook = "notebook"


ASSIGNMENTS: dict[Shell, Callable[[str, str], str]] = {
    Shell.sh: lambda name, value: f"export {name}={shlex.quote(value)}",
    Shell.fish: lambda name, value: f"set -gx {name} {shlex.quote(value)}",
    Shell.powershell: lambda name, value: f"$env:{name} = '{value}'",
    Shell.dotenv: lambda name, value: f'{name}="{value}"',
    Shell.notebook: lambda name, value: f"%env {name}={value}",
}

app = typer.Typer(
    name="dbllm",
    cls=Group,
    help="Language models that Databricks serves.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; the entry point of `dbllm`. What cannot work ends with a sentence and exit status 1."""
    from dbllm import DbllmError

    console.prepare_streams()
    sys.argv[1:] = map(console.decode_argument, sys.argv[1:])
    app.rich_markup_mode = None if console.is_plain(sys.stdout) else "rich"  # no boxes for other programs
    try:
        app()
    except (DbllmError, OSError) as error:
        console.print_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        console.drop_unwritten()


def _print_version(wanted: bool) -> None:
    if wanted:
        from dbllm import __version__

        console.write(f"dbllm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Language models that Databricks serves."""


def _read_target(text: str) -> Pair:
    if not (pair := read_pair(text)).value:
        raise typer.BadParameter(f"{text!r} is not of the form name=value.")
    return pair


@app.command(cls=Command)
def demo() -> None:
    """See each kind of call, with its code and its answer.

    It starts a local workspace with a real small model for that, and a driver app.
    """
    from dbllm.cli.demo import run

    run()


@app.command(cls=Command, short_help="Run a local workspace, until Ctrl-C.")
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
        list[Pair] | None,
        pairs_option(
            "Where a provider of external models is; openai=local: here. May be repeated.", "PROVIDER=URL", _read_target
        ),
    ] = None,
    allow_upstream: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PORT]",
            help="A server that is not public, such as 127.0.0.1:8000, and that external models may call. Repeatable.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name under which this machine is called. Repeatable."),
    ] = None,
    custom: Annotated[
        list[Pair] | None,
        pairs_option(
            "A custom model: module:function or a scoring server's URL. Repeatable.", "NAME=TARGET", _read_target
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
    ai_gateway: Annotated[
        bool, typer.Option("--ai-gateway/--no-ai-gateway", help="Whether there are an AI gateway and model services.")
    ] = True,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="On a terminal, do not print a line for each request.")
    ] = False,
) -> None:
    """Run a local workspace that answers with a real small model, until Ctrl-C.

    The standard output can be pasted into a shell: it sets the variables by which clients find the workspace.
    """
    from dbllm.local import Options, Workspace
    from dbllm.local.invocation.faults import parse_fault

    secret = os.environ.get(client_secret_env)
    if client_id and not secret:
        raise typer.BadParameter(f"{client_secret_env} is not set.", param_hint="--client-secret-env")
    Workspace(
        host=host,
        port=port,
        token=token,
        state=state,
        model=model,
        drivers=driver or (),
        principals={client_id: secret} if client_id and secret else {},
        drain=drain,
        noted=True,
        options=Options(
            deploy_seconds=deploy_seconds,
            seed=seed,
            at_once=at_once,
            upstreams=dict(upstream or ()),
            upstream_key=upstream_key,
            allowed_upstreams=allow_upstream or (),
            allowed_hosts=allowed_host or (),
            customs=dict(custom or ()),
            faults=dict(parse_fault(one) for one in fault or ()),
            ai_gateway=ai_gateway,
            on_answer=_print_request if sys.stderr.isatty() and not quiet else None,  # nobody may read a pipe
        ),
    ).run(_announce_workspace, _announce_drain)


def _announce_workspace(workspace: Workspace) -> None:
    from dbllm.local.running import runs_alone

    which = "" if runs_alone() else f" --port {workspace.host.rpartition(':')[2]}"
    names = f"# endpoints: {', '.join(workspace.endpoint_names)}"
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else len(names)
    console.announce(
        *(f"export {name}={shlex.quote(value)}" for name, value in workspace.env.items()),
        *textwrap.wrap(names, width, subsequent_indent="#   ", break_long_words=False, break_on_hyphens=False),
        f'# try: eval "$(dbllm env{which})"; dbllm chat smollm2-chat "Name a colour."',
        f"# upstream: {workspace.upstream_url} takes the key {workspace.upstream_key}",
        *([f"# page: {workspace.page_url}"] if workspace.page_url else []),
        f"# ready: {workspace.host} answers (Ctrl-C stops it)",
    )


def _announce_drain(workspace: Workspace) -> None:
    if workspace.drain < 1 or not (names := workspace.open_requests):
        return
    what = console.counted(len(names), "open answer")
    listed = ", ".join(dict.fromkeys(names))
    console.note(f"Waiting up to {workspace.drain:g} s for {what} ({listed}); Ctrl-C again ends at once.")


def _print_request(entry: Entry) -> None:
    """One line on the standard error, as servers do; the standard output is for a shell to read."""
    moment = time.strftime("%H:%M:%S", time.localtime(entry.at))
    made = console.counted(entry.tokens_out or 0, "token")
    tokens = "" if entry.tokens_in is None else f"  {entry.tokens_in} → {made}"
    what = entry.endpoint or entry.path
    console.note(f"{moment}  {entry.status or 'cut'}  {entry.method} {what}{tokens}  {entry.seconds:.2f} s")


@app.command(cls=Command, short_help="Print the variables by which clients find a running workspace.")
def env(
    port: Annotated[
        int | None,
        typer.Option(help="Of which workspace.", show_default="DATABRICKS_HOST's, else the last one started"),
    ] = None,
    shell: Annotated[
        Shell, typer.Option(help="The form: sh (bash, zsh), fish, powershell, dotenv (a .env file), notebook.")
    ] = Shell.sh,
) -> None:
    """Print the variables by which clients find the workspace that runs on this machine.

    Of several it is the one that DATABRICKS_HOST names, or else the one that was started last, as for Client.local().
    In a shell: eval "$(dbllm env)". In a notebook, paste what `dbllm env --shell notebook` prints.
    """
    from dbllm.local.running import running_env

    for name, value in running_env(port).items():
        console.write(ASSIGNMENTS[shell](name, value))


@app.command(cls=Command, short_help="Run a driver app, until Ctrl-C.")
def serve(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL.gguf | module:function]", help="SmolLM2 when left out.")
    ] = None,
    port: Annotated[int, typer.Option(help="3000 to 8000.")] = 7777,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name under which this machine is called. Repeatable."),
    ] = None,
) -> None:
    """Run a driver app: a model that a cluster's driver proxy can reach, until Ctrl-C."""
    from dbllm.local.driver.server import DriverServer

    DriverServer(model, port=port, allowed_hosts=allowed_host or ()).run(_announce_driver)


def _announce_driver(driver: DriverServer) -> None:
    console.announce(f"# ready: {driver.url} answers (Ctrl-C stops it)")
    console.note(driver.registration)


app.add_typer(models)
add_bulk(app)
app.add_typer(endpoints)
app.add_typer(services)
app.add_typer(secrets)
app.command(cls=Command)(doctor)
