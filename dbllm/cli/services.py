"""The commands `dbllm services …`: model services of Unity Catalog listed, made, changed, granted and deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbllm.cli import console
from dbllm.cli.endpoints import Json
from dbllm.cli.options import AsJson, Group, client_command

if TYPE_CHECKING:
    from dbllm import Client

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name: catalog.schema.name.")]
Providers = Annotated[bool, typer.Option("--providers", help="Provider services, which hold providers' keys.")]
Comment = Annotated[str | None, typer.Option(help="A description.")]
Etag = Annotated[str | None, typer.Option(help="Only if nobody has changed it since it had this etag.")]

services = typer.Typer(
    name="services", cls=Group, help="List, make, change, grant and delete model services.", no_args_is_help=True
)


def _of(client: Client, providers: bool) -> Any:
    return client.model_providers if providers else client.model_services


@client_command(services, "list")
def list_services(
    client: Client,
    schema: Annotated[str, typer.Argument(metavar="SCHEMA", help="catalog.schema")] = "system.ai",
    providers: Providers = False,
    as_json: AsJson = False,
) -> None:
    """List the model services of a schema that you may see."""
    listed = _of(client, providers).list(schema)
    rows = [
        (each.full_name, ", ".join(getattr(each, "supported_api_types", ())), each.comment or "") for each in listed
    ]
    console.show(listed, ["Name", "Speaks", "Comment"], rows, as_json=as_json)


@client_command(services, "get")
def get_service(client: Client, name: Name, providers: Providers = False) -> None:
    """Print a model service, as JSON."""
    console.write_json(_of(client, providers).get(name))


@client_command(services, "create")
def create_service(
    client: Client, name: Name, config: Json = "-", comment: Comment = None, providers: Providers = False
) -> None:
    """Make a model service with this config. A provider's key stands in it by secret_reference only."""
    console.write_json(_of(client, providers).create(name, console.load_json(config), comment=comment))


@client_command(services, "update")
def update_service(
    client: Client,
    name: Name,
    config: Annotated[
        str | None,
        typer.Argument(metavar="JSON", help="As for create; may be left out beside --comment.", show_default="-"),
    ] = None,
    comment: Comment = None,
    mask: Annotated[list[str] | None, typer.Option(help="A field to change; may be repeated.")] = None,
    etag: Etag = None,
    providers: Providers = False,
) -> None:
    """Change the config or the comment of a model service, or the fields that --mask names."""
    if config is None and comment is None and not mask:
        config = "-"
    read = None if config is None else console.load_json(config)
    changed = _of(client, providers).update(name, read, comment=comment, update_mask=mask or None, etag=etag)
    console.write_json(changed)


@client_command(services, "delete")
def delete_service(client: Client, name: Name, etag: Etag = None, providers: Providers = False) -> None:
    """Delete a model service."""
    _of(client, providers).delete(name, etag=etag)


@client_command(services)
def grants(
    client: Client,
    name: Name,
    grant: Annotated[list[str] | None, typer.Option(help="Let this principal call it; may be repeated.")] = None,
    revoke: Annotated[list[str] | None, typer.Option(help="Take that away; may be repeated.")] = None,
    providers: Providers = False,
    as_json: AsJson = False,
) -> None:
    """Show who may do what with a model service; with --grant or --revoke change EXECUTE first."""
    area = _of(client, providers)
    for principal in grant or ():
        area.grant(name, principal)
    for principal in revoke or ():
        area.revoke(name, principal)
    held = area.grants(name)
    rows = [(principal, ", ".join(privileges)) for principal, privileges in held.items()]
    console.show(held, ["Principal", "Privileges"], rows, as_json=as_json)
