"""The commands `dbllm secrets …`: scopes, secrets, and who may use them; arguments in the Databricks CLI's order."""

from __future__ import annotations

import base64
import sys
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer

from dbllm.cli import console
from dbllm.cli.models import Host, Profile, Seconds, connected

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the workspace sends it.")]
Scope = Annotated[str, typer.Argument(metavar="SCOPE", help="The scope's name.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The secret's name in it.")]
Principal = Annotated[str, typer.Argument(metavar="PRINCIPAL", help="A user, a group or a service principal.")]

secrets = typer.Typer(name="secrets", help="Secret scopes, secrets, and who may use them.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Make them commands of `app`."""
    app.add_typer(secrets)


@secrets.command()
def create_scope(
    scope: Scope,
    initial_manage_principal: Annotated[
        str | None, typer.Option(help='"users" lets all users manage it.', show_default="its maker alone")
    ] = None,
    host: Host = None,
    profile: Profile = None,
    timeout: Seconds = None,
) -> None:
    """Make a scope."""
    with connected(host, profile, timeout) as client:
        client.secrets.create_scope(scope, initial_manage_principal=initial_manage_principal)


@secrets.command()
def list_scopes(as_json: AsJson = False, host: Host = None, profile: Profile = None, timeout: Seconds = None) -> None:
    """List the scopes that you may see."""
    with connected(host, profile, timeout) as client:
        scopes = client.secrets.list_scopes()
    if as_json:
        console.write_json([scope.model_dump(exclude_unset=True) for scope in scopes])
    else:
        console.table(["Scope", "Backend"], [(scope.name, scope.backend_type or "") for scope in scopes])


@secrets.command()
def delete_scope(scope: Scope, host: Host = None, profile: Profile = None, timeout: Seconds = None) -> None:
    """Delete a scope with all that is in it."""
    with connected(host, profile, timeout) as client:
        client.secrets.delete_scope(scope)


@secrets.command()
def put_secret(
    scope: Scope,
    key: Key,
    string_value: Annotated[
        str | None, typer.Option(help="The value. Other users of this machine can read it here: better leave it out.")
    ] = None,
    binary_file: Annotated[
        Path | None, typer.Option(help="A file whose bytes are the value.", exists=True, dir_okay=False)
    ] = None,
    host: Host = None,
    profile: Profile = None,
    timeout: Seconds = None,
) -> None:
    """Write a secret; one that is there is replaced.

    Without an option the value is asked for, and not shown; from a pipe it is all of the standard input, as UTF-8,
    without one line end at its end.
    """
    if string_value is not None and binary_file is not None:
        raise typer.BadParameter("--string-value and --binary-file were given: it is one or the other.")
    with connected(host, profile, timeout) as client:
        value = binary_file.read_bytes() if binary_file else _asked(key) if string_value is None else string_value
        client.secrets.put(scope, key, value)


def _asked(key: str) -> str:
    if sys.stdin.isatty():
        if value := getpass(f"Value of {key} (not shown): "):
            return value
        raise ValueError("no value was given, and none was written.")
    return console.read_stdin()


@secrets.command()
def get_secret(
    scope: Scope,
    key: Key,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; the value is in base64.")] = False,
    host: Host = None,
    profile: Profile = None,
    timeout: Seconds = None,
) -> None:
    """Print the value of a secret: a text with a line end, other bytes as they are (but not to a terminal)."""
    with connected(host, profile, timeout) as client:
        value = client.secrets.get_bytes(scope, key)
        if as_json:
            console.write_json({"key": key, "value": base64.b64encode(value).decode()})
            return
        try:
            console.write(value.decode())
        except UnicodeDecodeError:
            if sys.stdout.isatty():
                raise ValueError("the value is not text: write it to a file with >, or use --json.") from None
            sys.stdout.buffer.write(value)


@secrets.command()
def list_secrets(
    scope: Scope, as_json: AsJson = False, host: Host = None, profile: Profile = None, timeout: Seconds = None
) -> None:
    """List the secrets of a scope, without their values."""
    with connected(host, profile, timeout) as client:
        found = client.secrets.list(scope)
    if as_json:
        console.write_json([secret.model_dump(exclude_unset=True) for secret in found])
    else:
        rows = [(secret.key, console.format_time(secret.last_updated_timestamp)) for secret in found]
        console.table(["Key", "Last updated"], rows)


@secrets.command()
def delete_secret(scope: Scope, key: Key, host: Host = None, profile: Profile = None, timeout: Seconds = None) -> None:
    """Delete a secret."""
    with connected(host, profile, timeout) as client:
        client.secrets.delete(scope, key)


@secrets.command()
def put_acl(
    scope: Scope,
    principal: Principal,
    permission: Annotated[str, typer.Argument(metavar="PERMISSION", help="READ, WRITE or MANAGE.")],
    host: Host = None,
    profile: Profile = None,
    timeout: Seconds = None,
) -> None:
    """Let a principal read, write or manage a scope; what it was allowed before is replaced."""
    with connected(host, profile, timeout) as client:
        client.secrets.put_acl(scope, principal, permission.upper())


@secrets.command()
def get_acl(
    scope: Scope,
    principal: Principal,
    as_json: AsJson = False,
    host: Host = None,
    profile: Profile = None,
    timeout: Seconds = None,
) -> None:
    """Print what a principal may do in a scope."""
    with connected(host, profile, timeout) as client:
        acl = client.secrets.get_acl(scope, principal)
    if as_json:
        console.write_json(acl.model_dump(exclude_unset=True))
    else:
        console.write(acl.permission)


@secrets.command()
def list_acls(
    scope: Scope, as_json: AsJson = False, host: Host = None, profile: Profile = None, timeout: Seconds = None
) -> None:
    """List who may do what in a scope."""
    with connected(host, profile, timeout) as client:
        acls = client.secrets.list_acls(scope)
    if as_json:
        console.write_json([acl.model_dump(exclude_unset=True) for acl in acls])
    else:
        console.table(["Principal", "Permission"], [(acl.principal, acl.permission) for acl in acls])


@secrets.command()
def delete_acl(
    scope: Scope, principal: Principal, host: Host = None, profile: Profile = None, timeout: Seconds = None
) -> None:
    """Take from a principal what it was allowed in a scope."""
    with connected(host, profile, timeout) as client:
        client.secrets.delete_acl(scope, principal)
