"""The commands `dbllm endpoints …`: serving endpoints made, changed, watched and deleted."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbllm.cli import console
from dbllm.cli.options import AsJson, Group, Pair, client_command, pairs_option

if TYPE_CHECKING:
    from dbllm import Client

Name = Annotated[str, typer.Argument(metavar="NAME", help="The serving endpoint's name.")]
Json = Annotated[
    str, typer.Argument(metavar="JSON", help="A JSON object, or @FILE that holds it; without it the standard input.")
]
Entity = Annotated[str | None, typer.Argument(metavar="ENTITY", help="The served entity.", show_default="the only one")]
Wait = Annotated[bool, typer.Option("--wait", help="Come back when it is ready.")]
ToWait = Annotated[float | None, typer.Option("--timeout", help="Seconds.", show_default="300; 1200 to wait")]

endpoints = typer.Typer(
    name="endpoints", cls=Group, help="Make, change, watch and delete serving endpoints.", no_args_is_help=True
)


@client_command(endpoints, "list")
def list_all(client: Client, as_json: AsJson = False) -> None:
    """List the endpoints that you may see."""
    listed = client.endpoints.list()
    usual = "/NOT_UPDATING" if sys.stdout.isatty() else ""  # which tells a person nothing; programs get it all
    rows = [
        (each.name, each.state_summary.removesuffix(usual), each.task or "custom", each.creator or "")
        for each in listed
    ]
    console.show(listed, ["Name", "State", "Task", "Creator"], rows, as_json=as_json)


@client_command(endpoints)
def get(client: Client, name: Name, as_json: AsJson = False) -> None:
    """Show an endpoint."""
    print_endpoint(client.endpoints.get(name), as_json=as_json)


@client_command(endpoints)
def create(
    client: Client, name: Name, config: Json = "-", wait: Wait = False, as_json: AsJson = False, timeout: ToWait = None
) -> None:
    """Make an endpoint.

    JSON is its config, {"served_entities": [...]}, or the whole request with the config under "config". A provider's
    key in it is best a reference to a secret, {{secrets/SCOPE/KEY}}: other users can read a command's arguments.
    """
    request = console.load_json(config)
    inner = request.pop("config", None)
    inner, rest = (request, {}) if inner is None else (inner, request)
    note_wait(name, wait)
    endpoint = client.endpoints.create(name, inner, extra_body=rest, wait=wait, timeout=timeout)
    print_endpoint(endpoint, as_json=as_json)


@client_command(endpoints)
def update(
    client: Client, name: Name, config: Json = "-", wait: Wait = False, as_json: AsJson = False, timeout: ToWait = None
) -> None:
    """Give an endpoint another config; the old one serves until the new one is ready."""
    note_wait(name, wait)
    endpoint = client.endpoints.update_config(name, console.load_json(config), wait=wait, timeout=timeout)
    print_endpoint(endpoint, as_json=as_json)


@client_command(endpoints)
def wait(client: Client, name: Name, as_json: AsJson = False, timeout: ToWait = None) -> None:
    """Wait until an endpoint is ready and no update is under way; exit status 1 if that fails."""
    note_wait(name)
    endpoint = client.endpoints.wait_until_ready(name, **({} if timeout is None else {"timeout": timeout}))
    print_endpoint(endpoint, as_json=as_json)


@client_command(endpoints)
def delete(client: Client, name: Name) -> None:
    """Delete an endpoint."""
    client.endpoints.delete(name)


@client_command(endpoints)
def logs(
    client: Client,
    name: Name,
    entity: Entity = None,
    build: Annotated[bool, typer.Option("--build", help="What the build of its container wrote.")] = False,
) -> None:
    """Print the newest lines that the server of a served entity wrote."""
    read_logs = client.endpoints.build_logs if build else client.endpoints.logs
    console.write(read_logs(name, entity).removesuffix("\n"))


@client_command(endpoints)
def metrics(client: Client, name: Name) -> None:
    """Print an endpoint's metrics, as Prometheus text."""
    console.write(client.endpoints.metrics(name).removesuffix("\n"))


@client_command(endpoints)
def openapi(client: Client, name: Name) -> None:
    """Print the OpenAPI document of what an endpoint takes and answers."""
    console.write_json(client.endpoints.openapi(name))


@client_command(endpoints)
def tags(
    client: Client,
    name: Name,
    add: Annotated[list[Pair] | None, pairs_option("A tag to add or change; may be repeated.")] = None,
    delete: Annotated[list[str] | None, typer.Option(help="A tag to delete; may be repeated.", metavar="K")] = None,
    as_json: AsJson = False,
) -> None:
    """Add and delete tags, and show those there are then."""
    held = client.endpoints.update_tags(name, dict(add or ()), delete or ())
    console.show(held, ["Tag", "Value"], list(held.items()), as_json=as_json)


@client_command(endpoints)
def rate_limits(client: Client, name: Name, limits: Json = "-") -> None:
    """Replace the rate limits: {"rate_limits": [{"calls": 10, "key": "user", "renewal_period": "minute"}]}."""
    rate_limits = console.load_json(limits).get("rate_limits")
    if not isinstance(rate_limits, list):
        raise ValueError('"rate_limits" must be a list: {"rate_limits": [{"calls": 10, "key": "user", …}]}.')
    console.write_json(client.endpoints.set_rate_limits(name, rate_limits))


@client_command(endpoints)
def ai_gateway(client: Client, name: Name, config: Json = "-") -> None:
    """Replace the AI gateway's config: rate limits, guardrails, fallbacks, usage tracking."""
    console.write_json(client.endpoints.set_ai_gateway(name, console.load_json(config)))


LEVEL = "NAME=LEVEL"


@client_command(endpoints)
def permissions(
    client: Client,
    name: Name,
    user: Annotated[list[Pair] | None, pairs_option("CAN_VIEW, CAN_QUERY or CAN_MANAGE.", LEVEL)] = None,
    group: Annotated[list[Pair] | None, pairs_option("The same for a group.", LEVEL)] = None,
    service_principal: Annotated[list[Pair] | None, pairs_option("The same for a service principal.", LEVEL)] = None,
    as_json: AsJson = False,
) -> None:
    """Show who may do what with an endpoint; with --user, --group or --service-principal change it first."""
    levels = {"user_name": user, "group_name": group, "service_principal_name": service_principal}
    access = [
        {kind: who, "permission_level": level.upper()} for kind, pairs in levels.items() for who, level in pairs or ()
    ]
    held = client.endpoints.update_permissions(name, access) if access else client.endpoints.permissions(name)
    rows = [row for entry in held for row in access_rows(entry)]
    console.show(held, ["Principal", "Permission"], rows, as_json=as_json)


def access_rows(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A principal's permissions, one row each."""
    who = next(
        (str(entry[kind]) for kind in ("user_name", "group_name", "service_principal_name") if entry.get(kind)), ""
    )
    for permission in entry.get("all_permissions") or ():
        inherited = " (inherited)" if permission.get("inherited") else ""
        yield who, f"{permission.get('permission_level')}{inherited}"


def print_endpoint(endpoint: Any, *, as_json: bool) -> None:
    """An endpoint: its JSON, or what matters of it."""
    facts = [("name", endpoint.name), ("state", endpoint.state_summary), ("task", endpoint.task or "custom")]
    facts += [("creator", endpoint.creator)] if endpoint.creator else []
    facts += [("tags", ", ".join(f"{tag.get('key')}={tag.get('value', '')}" for tag in endpoint.tags or ()))]
    facts += [("serves", entity_summary(entity)) for entity in endpoint.entities]
    console.show(endpoint, ["", ""], [fact for fact in facts if fact[1]], as_json=as_json)


def entity_summary(entity: Mapping[str, Any]) -> str:
    """A served entity in a few words."""
    model = entity.get("external_model") or entity.get("foundation_model") or {}
    version = entity.get("entity_version") or entity.get("model_version")
    what = entity.get("entity_name") or entity.get("model_name") or model.get("name") or ""
    words = [str(entity.get("name") or what), f"= {model.get('provider') or ''} {what}".replace("  ", " ")]
    return " ".join(words) + (f" version {version}" if version else "")


def note_wait(name: str, wait: bool = True) -> None:
    """Say on a terminal that the command waits."""
    if wait and sys.stderr.isatty():
        console.note(f"Waiting until {name} is ready.")
