"""The commands `dbllm endpoints …`: serving endpoints made, changed, watched and deleted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from dbllm.cli import console
from dbllm.cli.models import Host, Profile, Seconds, connected

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the workspace sends it.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The serving endpoint's name.")]
Json = Annotated[
    str, typer.Argument(metavar="JSON", help="A JSON object, or @FILE that holds it, or - for the standard input.")
]
Entity = Annotated[str | None, typer.Argument(metavar="ENTITY", help="The served entity.", show_default="the only one")]
Wait = Annotated[bool, typer.Option("--wait", help="Come back when it is ready.")]
ToWait = Annotated[float | None, typer.Option("--timeout", help="Seconds.", show_default="300; 1200 to wait")]

endpoints = typer.Typer(
    name="endpoints", help="Make, change, watch and delete serving endpoints.", no_args_is_help=True
)


def add_to(app: typer.Typer) -> None:
    """Make them commands of `app`."""
    app.add_typer(endpoints)


@endpoints.command("list")
def list_all(as_json: AsJson = False, host: Host = None, profile: Profile = None, timeout: Seconds = None) -> None:
    """List the endpoints that you may see."""
    with connected(host, profile, timeout) as client:
        found = client.endpoints.list()
    if as_json:
        console.write_json([endpoint.model_dump(exclude_unset=True) for endpoint in found])
    else:
        rows = [(each.name, each.state_summary, each.task or "custom", each.creator or "") for each in found]
        console.table(["Name", "State", "Task", "Creator"], rows)


@endpoints.command()
def get(
    name: Name, as_json: AsJson = False, host: Host = None, profile: Profile = None, timeout: Seconds = None
) -> None:
    """Show an endpoint."""
    with connected(host, profile, timeout) as client:
        show(client.endpoints.get(name), as_json=as_json)


@endpoints.command()
def create(
    name: Name,
    config: Json,
    wait: Wait = False,
    as_json: AsJson = False,
    host: Host = None,
    profile: Profile = None,
    timeout: ToWait = None,
) -> None:
    """Make an endpoint.

    JSON is its config, {"served_entities": [...]}, or the whole request with the config under "config". A provider's
    key in it is best a reference to a secret, {{secrets/SCOPE/KEY}}: other users can read a command's arguments.
    """
    with connected(host, profile, timeout if not wait else None) as client:
        request = read_json(config)
        inner = request.pop("config", None)
        inner, rest = (request, {}) if inner is None else (inner, request)
        with waiting(name, wait):
            made = client.endpoints.create(name, inner, extra_body=rest, wait=wait, timeout=timeout)
        show(made, as_json=as_json)


@endpoints.command()
def update(
    name: Name,
    config: Json,
    wait: Wait = False,
    as_json: AsJson = False,
    host: Host = None,
    profile: Profile = None,
    timeout: ToWait = None,
) -> None:
    """Give an endpoint another config; the old one serves until the new one is ready."""
    with connected(host, profile, timeout if not wait else None) as client:
        with waiting(name, wait):
            changed = client.endpoints.update_config(name, read_json(config), wait=wait, timeout=timeout)
        show(changed, as_json=as_json)


@endpoints.command()
def wait(
    name: Name, as_json: AsJson = False, host: Host = None, profile: Profile = None, timeout: ToWait = None
) -> None:
    """Wait until an endpoint is ready and no update is under way; exit status 1 if that fails."""
    with connected(host, profile, None) as client:
        with waiting(name, True):
            ready = client.endpoints.wait_until_ready(name, **({} if timeout is None else {"timeout": timeout}))
        show(ready, as_json=as_json)


@endpoints.command()
def delete(name: Name, host: Host = None, profile: Profile = None, timeout: Seconds = None) -> None:
    """Delete an endpoint."""
    with connected(host, profile, timeout) as client:
        client.endpoints.delete(name)


@endpoints.command()
def logs(
    name: Name,
    entity: Entity = None,
    build: Annotated[bool, typer.Option("--build", help="What the build of its container wrote.")] = False,
    host: Host = None,
    profile: Profile = None,
    timeout: Seconds = None,
) -> None:
    """Print the newest lines that the server of a served entity wrote."""
    with connected(host, profile, timeout) as client:
        ask = client.endpoints.build_logs if build else client.endpoints.logs
        console.write(ask(name, entity).removesuffix("\n"))


@endpoints.command()
def metrics(name: Name, host: Host = None, profile: Profile = None, timeout: Seconds = None) -> None:
    """Print an endpoint's metrics, as Prometheus text."""
    with connected(host, profile, timeout) as client:
        console.write(client.endpoints.metrics(name).removesuffix("\n"))


@endpoints.command()
def openapi(name: Name, host: Host = None, profile: Profile = None, timeout: Seconds = None) -> None:
    """Print the OpenAPI document of what an endpoint takes and answers."""
    with connected(host, profile, timeout) as client:
        console.write_json(client.endpoints.openapi(name))


@endpoints.command()
def tags(
    name: Name,
    add: Annotated[
        list[str] | None, typer.Option(help="A tag to add or change; may be repeated.", metavar="K=V")
    ] = None,
    delete: Annotated[list[str] | None, typer.Option(help="A tag to delete; may be repeated.", metavar="K")] = None,
    as_json: AsJson = False,
    host: Host = None,
    profile: Profile = None,
    timeout: Seconds = None,
) -> None:
    """Add and delete tags, and show those there are then."""
    with connected(host, profile, timeout) as client:
        found = client.endpoints.update_tags(name, pairs(add), delete or ())
    if as_json:
        console.write_json(found)
    else:
        console.table(["Tag", "Value"], list(found.items()))


@endpoints.command()
def rate_limits(name: Name, limits: Json, host: Host = None, profile: Profile = None, timeout: Seconds = None) -> None:
    """Replace the rate limits: {"rate_limits": [{"calls": 10, "key": "user", "renewal_period": "minute"}]}."""
    with connected(host, profile, timeout) as client:
        given = read_json(limits).get("rate_limits")
        if not isinstance(given, list):
            raise ValueError('the limits are {"rate_limits": [{"calls": 10, …}]}.')
        console.write_json(client.endpoints.set_rate_limits(name, given))


@endpoints.command()
def ai_gateway(name: Name, config: Json, host: Host = None, profile: Profile = None, timeout: Seconds = None) -> None:
    """Replace the AI gateway's config: rate limits, guardrails, fallbacks, usage tracking."""
    with connected(host, profile, timeout) as client:
        console.write_json(client.endpoints.set_ai_gateway(name, read_json(config)))


LEVEL = "NAME=LEVEL"


@endpoints.command()
def permissions(
    name: Name,
    user: Annotated[list[str] | None, typer.Option(help="CAN_VIEW, CAN_QUERY or CAN_MANAGE.", metavar=LEVEL)] = None,
    group: Annotated[list[str] | None, typer.Option(help="The same for a group.", metavar=LEVEL)] = None,
    service_principal: Annotated[
        list[str] | None, typer.Option(help="The same for a service principal.", metavar=LEVEL)
    ] = None,
    as_json: AsJson = False,
    host: Host = None,
    profile: Profile = None,
    timeout: Seconds = None,
) -> None:
    """Show who may do what with an endpoint; with --user, --group or --service-principal change it first."""
    given = {"user_name": pairs(user), "group_name": pairs(group), "service_principal_name": pairs(service_principal)}
    access = [
        {kind: who, "permission_level": level.upper()}
        for kind, levels in given.items()
        for who, level in levels.items()
    ]
    with connected(host, profile, timeout) as client:
        held = client.endpoints.update_permissions(name, access) if access else client.endpoints.permissions(name)
    if as_json:
        console.write_json(held)
    else:
        console.table(["Principal", "Permission"], [row for entry in held for row in access_rows(entry)])


def access_rows(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A principal's permissions, one row each."""
    who = next(
        (str(entry[kind]) for kind in ("user_name", "group_name", "service_principal_name") if entry.get(kind)), ""
    )
    for permission in entry.get("all_permissions") or ():
        inherited = " (inherited)" if permission.get("inherited") else ""
        yield who, f"{permission.get('permission_level')}{inherited}"


def show(endpoint: Any, *, as_json: bool) -> None:
    """An endpoint: its JSON, or what matters of it."""
    if as_json:
        console.write_json(endpoint.model_dump(exclude_unset=True))
        return
    facts = [("name", endpoint.name), ("state", endpoint.state_summary), ("task", endpoint.task or "custom")]
    facts += [("creator", endpoint.creator)] if endpoint.creator else []
    facts += [("tags", ", ".join(f"{tag.get('key')}={tag.get('value', '')}" for tag in endpoint.tags or ()))]
    facts += [("serves", served(entity)) for entity in endpoint.entities]
    console.table(["", ""], [fact for fact in facts if fact[1]])


def served(entity: Mapping[str, Any]) -> str:
    """A served entity in a few words."""
    model = entity.get("external_model") or entity.get("foundation_model") or {}
    version = entity.get("entity_version") or entity.get("model_version")
    what = entity.get("entity_name") or entity.get("model_name") or model.get("name")
    words = [str(entity.get("name") or what), f"= {model.get('provider') or ''} {what}".replace("  ", " ")]
    return " ".join(words) + (f" version {version}" if version else "")


@contextmanager
def waiting(name: str, wait: bool) -> Iterator[None]:
    """On a terminal, show that it is waited."""
    if not (wait and sys.stderr.isatty()):
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"Waiting for {name} …"):
        yield


def read_json(text: str) -> dict[str, Any]:
    """A JSON object from an argument, a file (@FILE) or the standard input (-).

    Raises:
        ValueError: it is something else, or the file cannot be read. The message does not show it: it may hold a key.
    """
    try:
        found = json.loads(Path(text[1:]).read_text("utf-8") if text.startswith("@") else console.read_argument(text))
    except OSError as error:
        raise ValueError(f"{text[1:]} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ValueError(f"what was given is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"what was given is a JSON {type(found).__name__}, and an object is needed.")
    return found


def pairs(texts: list[str] | None) -> dict[str, str]:
    """`k=v` texts as a dict."""
    found = {}
    for text in texts or ():
        key, sign, value = text.partition("=")
        if not key or not sign:
            raise typer.BadParameter(f"{text!r} is not of the form name=value.")
        found[key] = value
    return found
