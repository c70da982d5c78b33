"""The commands `dbllm secrets …`: scopes, secrets, and who may use them; arguments in the Databricks CLI's order."""

from __future__ import annotations

import base64
import sys
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbllm.cli import console
from dbllm.cli.options import AsJson, Command, Group, client_command

if TYPE_CHECKING:
    from dbllm import Client

Scope = Annotated[str, typer.Argument(metavar="SCOPE", help="The scope's name.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The secret's name in it.")]
Principal = Annotated[str, typer.Argument(metavar="PRINCIPAL", help="A user, a group or a service principal.")]

secrets = typer.Typer(
    name="secrets", cls=Group, help="Secret scopes, secrets, and who may use them.", no_args_is_help=True
)


@client_command(secrets)
def create_scope(
    client: Client,
    scope: Scope,
    initial_manage_principal: Annotated[
        str | None, typer.Option(help='"users" lets all users manage it.', show_default="its maker alone")
    ] = None,
) -> None:
    """Make a scope."""
    client.secrets.create_scope(scope, initial_manage_principal=initial_manage_principal)


@client_command(secrets)
def list_scopes(client: Client, as_json: AsJson = False) -> None:
    """List the scopes that you may see."""
    scopes = client.secrets.list_scopes()
    rows = [(scope.name, scope.backend_type or "") for scope in scopes]
    console.show(scopes, ["Scope", "Backend"], rows, as_json=as_json)


@client_command(secrets)
def delete_scope(client: Client, scope: Scope) -> None:
    """Delete a scope with all that is in it."""
    client.secrets.delete_scope(scope)


def _check_value(string_value: str | None, binary_file: Path | None, **_: object) -> None:
    if string_value is not None and binary_file is not None:
        raise typer.BadParameter("--string-value and --binary-file were given: it is one or the other.")


class _PutSecret(Command):
    """A command that does not repeat a value which was written where none belongs."""

    def say_extra(self, message: str) -> str:
        return "Got more than SCOPE and KEY. The value is asked for, piped in, or given by --string-value."


@client_command(secrets, check=_check_value, cls=_PutSecret)
def put_secret(
    client: Client,
    scope: Scope,
    key: Key,
    string_value: Annotated[
        str | None, typer.Option(help="The value. Other users of this machine can read it here: better leave it out.")
    ] = None,
    binary_file: Annotated[
        Path | None, typer.Option(help="A file whose bytes are the value.", exists=True, dir_okay=False, readable=True)
    ] = None,
) -> None:
    """Write a secret; one that is there is replaced.

    Without an option the value is asked for, and not shown; from a pipe it is all of the standard input, as UTF-8,
    without a byte order mark and without one line end at its end.
    """
    value: str | bytes | None = binary_file.read_bytes() if binary_file else string_value
    client.secrets.put(scope, key, _ask_for_value(key) if value is None else value)


def _ask_for_value(key: str) -> str:
    if not sys.stdin.isatty():
        return console.read_stdin()
    if value := getpass(f"Value of {key} (not shown): "):
        return value
    raise ValueError("no value was given, and none was written.")


@client_command(secrets)
def get_secret(
    client: Client,
    scope: Scope,
    key: Key,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; the value is in base64.")] = False,
) -> None:
    """Print the value of a secret: a text with a line end, other bytes as they are (but not to a terminal)."""
    value = client.secrets.get_bytes(scope, key)
    if as_json:
        console.write_json({"key": key, "value": base64.b64encode(value).decode()})
        return
    try:
        text, end = value.decode(), b"\n"
    except UnicodeDecodeError:
        text, end = "", b""
    if not sys.stdout.isatty():
        console.write_bytes(value + end)
    elif end:
        console.write(text)
    else:
        raise ValueError("the value is not text: write it to a file with >, or use --json.")


@client_command(secrets)
def list_secrets(client: Client, scope: Scope, as_json: AsJson = False) -> None:
    """List the secrets of a scope, without their values."""
    listed = client.secrets.list(scope)
    rows = [(secret.key, console.format_time(secret.last_updated_timestamp)) for secret in listed]
    console.show(listed, ["Key", "Last updated"], rows, as_json=as_json)


@client_command(secrets)
def delete_secret(client: Client, scope: Scope, key: Key) -> None:
    """Delete a secret."""
    client.secrets.delete(scope, key)


@client_command(secrets)
def put_acl(
    client: Client,
    scope: Scope,
    principal: Principal,
    permission: Annotated[str, typer.Argument(metavar="PERMISSION", help="READ, WRITE or MANAGE.")],
) -> None:
    """Let a principal read, write or manage a scope; what it was allowed before is replaced."""
    client.secrets.put_acl(scope, principal, permission.upper())


@client_command(secrets)
def get_acl(client: Client, scope: Scope, principal: Principal, as_json: AsJson = False) -> None:
    """Print what a principal may do in a scope."""
    acl = client.secrets.get_acl(scope, principal)
    if as_json:
        console.write_json(acl)
    else:
        console.write(acl.permission)


@client_command(secrets)
def list_acls(client: Client, scope: Scope, as_json: AsJson = False) -> None:
    """List who may do what in a scope."""
    acls = client.secrets.list_acls(scope)
    rows = [(acl.principal, acl.permission) for acl in acls]
    console.show(acls, ["Principal", "Permission"], rows, as_json=as_json)


@client_command(secrets)
def delete_acl(client: Client, scope: Scope, principal: Principal) -> None:
    """Take from a principal what it was allowed in a scope."""
    client.secrets.delete_acl(scope, principal)
