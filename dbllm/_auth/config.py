"""Which workspace, with which credentials, and where both were found.

Arguments, then environment, then a profile of `~/.databrickscfg`, then the notebook or the model serving container this
runs in, then the CLI's login; never a mixture that sends a credential to a host it was not configured for. A credential
from the environment belongs to DATABRICKS_HOST where that is set, a profile's to the profile's host. One that was set
without a host may go to the host the caller names with `host=`, and to no other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .._http.tls import Network
from .._urls import is_loopback
from ..errors import ConfigError
from . import sources
from .auth import Auth, CallbackAuth, Token, auth_for, basic, static_auth
from .profile import parse_bool
from .redaction import RedactedMapping, Secret, hide_arguments
from .refresh import Fetch, RefreshingAuth
from .sources import ASKED_FOR, CredentialSource

_NAME = re.compile(r"[\w.-]+")
_AZURE = (".azuredatabricks.net", ".databricks.azure.us", ".databricks.azure.cn")


@dataclass(frozen=True, slots=True)
class Config:
    """What a client uses, and where it was found; its str says that in a sentence without secrets.

    Attributes:
        host: the workspace.
        auth: gives the headers.
        kind: of auth, as `auth_type` names it; "function" for a token function.
        cluster_id: for driver apps.
        host_from, auth_from: where they were found.
        verify: False where the profile says skip_verify.
        passed_over: what else was found and why it is not used.
    """

    host: str
    auth: Auth = field(repr=False)
    kind: str = "pat"
    cluster_id: str | None = None
    host_from: str = ""
    auth_from: str = ""
    verify: bool = True
    passed_over: tuple[str, ...] = ()

    def network(self, asked: Network) -> Network:
        """How to connect: as the client was asked to, and as the profile says where it was not."""
        return asked if self.verify or asked.verify is not True else replace(asked, verify=False)

    def __str__(self) -> str:
        kind = sources.NAMES.get(self.kind, self.kind)
        return f"host {self.host} from {self.host_from}, {kind} from {self.auth_from}"


def normal_host(host: str) -> str:
    """`scheme://name[:port]` of a workspace. Without a scheme it is https, on a loopback address http.

    Raises:
        ConfigError: a path, a query, user info, another scheme, or http to anywhere but this machine.
    """
    text = host.strip() if isinstance(host, str) else ""
    if not text:
        raise ConfigError(f"host={host!r} names no workspace: it looks like https://my-workspace.cloud.databricks.com.")
    if "@" in text:  # first, so that no message below can show what stands before it
        raise ConfigError("a host has no user name or password in it; pass the token as token= or DATABRICKS_TOKEN.")
    bare = "://" not in text
    shown = text.split("?")[0].split("#")[0]
    try:
        parts = urlsplit(f"//{text}" if bare else text)
        name, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise ConfigError(f"host {shown!r} is no address: its name or port cannot be read.") from None
    address = f"[{name}]" if ":" in name else name
    scheme = ("http" if is_loopback(name) else "https") if bare else parts.scheme.lower()
    if scheme not in ("http", "https") or not (":" in name or _NAME.fullmatch(name)) or not text.isprintable():
        raise ConfigError(f"host {shown!r} is no workspace address: it looks like https://name.")
    # A URL copied from the browser ends with ?o=<workspace id>; that much is clear and is dropped.
    if parts.path not in ("", "/") or not set(parse_qs(parts.query, keep_blank_values=True)) <= {"o"}:
        raise ConfigError(f"host {shown!r} has a path or a query; give only the part before it: https://{address}.")
    if scheme == "http" and not is_loopback(name):
        raise ConfigError(f"host {shown!r}: over http the token could be read on the way; use https://{address}.")
    default = {"http": 80, "https": 443}[scheme]
    return f"{scheme}://{address}" + (f":{port}" if port is not None and port != default else "")


def resolve(
    host: str | None,
    token: Token | Secret | None,
    profile: str | None,
    *,
    env: Mapping[str, str],
    home: Path | None = None,
    client_id: str | None = None,
    client_secret: str | Secret | None = None,
    auth_type: str | None = None,
) -> Config:
    """Find host and credentials. Nothing is sent.

    Args:
        host, token, profile, client_id, client_secret, auth_type: as the caller gave them.
        env: the environment.
        home: the folder of `.databrickscfg`; the user's home by default.

    Raises:
        ConfigError: something is missing, unreadable, or would mix a credential with a foreign host.
    """
    host, token, client_secret = hide_arguments(host, token, client_secret)  # from here on no traceback shows them
    env = RedactedMapping(env)
    given = {"host": host, "token": token, "client_id": client_id, "client_secret": client_secret}
    given |= {"profile": profile, "auth_type": auth_type}
    for name, value in given.items():
        if value is not None and not value:  # not to be taken for "not given": another identity would call
            raise ConfigError(f"{name}= is empty; leave it out (None) to have it found.")
    there = {name for name in ("token", "client_id", "client_secret") if given[name]}
    if there and there not in ({"token"}, {"client_id", "client_secret"}):
        raise ConfigError("pass either token=, or client_id= and client_secret= together.")
    if there and auth_type not in (None, "pat" if "token" in there else "oauth-m2m"):
        raise ConfigError(f"auth_type={auth_type!r} does not go with {' and '.join(sorted(there))}=: leave it out.")
    explicit = CredentialSource("the arguments", given, {name: f"the argument {name}=" for name in given})
    return _Resolver(explicit, env, home or Path.home()).config()


class _Resolver:
    """One look through the places."""

    def __init__(self, explicit: CredentialSource, env: Mapping[str, str], home: Path) -> None:
        self._explicit, self._env, self._context = explicit, env, home
        self._profile = explicit.text("profile")
        # A profile that is named in the call stands before the environment; one that only lies there comes after it.
        self._around = CredentialSource("the environment") if self._profile else sources.from_environment(env)
        asking = explicit if explicit.text("auth_type") else self._around
        self._auth_type, self._auth_type_from = asking.text("auth_type"), asking.called("auth_type")
        self._rejected: list[str] = []
        self._saved = CredentialSource("")  # a profile is read only once it is needed

    def config(self) -> Config:
        """The first host and the first credentials that belong to it."""
        if self._auth_type and self._auth_type not in sources.KNOWN:
            there = ", ".join(sources.KNOWN)
            raise ConfigError(
                f"auth_type {self._auth_type!r} (from {self._auth_type_from}) is not known. There are: {there}."
            )
        if self._profile:
            self._profile_place()  # one that was named is there, or that is the error
        where = next((place for place in self._places() if place.text("host")), None)
        if where is None:
            raise ConfigError(
                "no workspace host is configured: pass host=, set DATABRICKS_HOST, or add a profile to "
                "~/.databrickscfg. Without an account, `dbllm up` starts a workspace on this machine."
            )
        target = self._target(where)
        found = next(self._found(target), None) or self._cli_login(target)
        if found is None:
            raise ConfigError(self._nothing(target, where))
        place, kind = found
        beside = [
            f"{kind} comes before {one}, which {place.name} has too; auth_type= or DATABRICKS_AUTH_TYPE chooses another"
            for one in place.kinds()
            if one != kind and place is not self._explicit
        ]
        saved = self._saved
        skip = saved.text("skip_verify") or ""
        shown = "function" if kind == "pat" and callable(place.values.get("token")) else kind
        return Config(
            target,
            _auth(place, kind, target, self._env),
            shown,
            self._around.text("cluster_id") or self._env.get("DATABRICKS_CLUSTER_ID") or saved.text("cluster_id"),
            where.called("host"),
            place.called(sources.KINDS.get(kind, (kind,))[0]),
            not (_known(saved.text("host")) == target and parse_bool(skip, f"skip_verify of {saved.name}")),
            (*self._rejected, *beside),
        )

    def _target(self, where: CredentialSource) -> str:
        try:
            return normal_host(where.text("host") or "")
        except ConfigError as error:
            flaw = str(error) if where is self._explicit else f"{error} It is that of {where.called('host')}."
        raise ConfigError(flaw)

    def _places(self) -> Iterator[CredentialSource]:
        """In their order; what comes later is not even read while what is before it suffices."""
        yield self._explicit
        if not self._profile:
            yield self._around
        yield self._profile_place()
        if not self._profile:
            yield from filter(None, (sources.from_notebook(self._env), sources.from_model_serving(self._env)))

    def _profile_place(self) -> CredentialSource:
        if not self._saved.name:
            file = self._env.get("DATABRICKS_CONFIG_FILE") or str(self._context / ".databrickscfg")
            name = self._profile or self._env.get("DATABRICKS_CONFIG_PROFILE") or None
            self._saved = sources.from_profile(Path(file).expanduser(), name, self._context)
        return self._saved

    def _found(self, target: str) -> Iterator[tuple[CredentialSource, str]]:
        """Credentials that may go to `target`; what may not is written down."""
        for place in self._places():
            asked = self._auth_type or place.text("auth_type")
            kinds = place.kinds()
            if place is not self._explicit and asked:  # what the caller gave needs no name
                login = place is self._saved and asked in ASKED_FOR and asked == place.text("auth_type")
                kinds = [asked] if asked in kinds or login else []
            if "env-oidc" in kinds and not self._env.get(place.text("oidc_token_env") or ""):
                kinds.remove("env-oidc")
            if not kinds:
                continue
            owner = place.text("host")
            if place is self._explicit or _known(owner) == target or (owner is None and self._explicit.text("host")):
                yield place, kinds[0]
            else:
                whose = _known(owner) or ("another host" if owner else "no host (none is set beside them)")
                self._rejected.append(f"The credentials of {place.name} ({kinds[0]}) belong to {whose}")

    def _cli_login(self, target: str) -> tuple[CredentialSource, str] | None:
        """A login that was asked for; else the CLI's, unless credentials for another host lie around."""
        if self._auth_type in ASKED_FOR:
            beside = next((place for place in self._places() if _known(place.text("host")) == target), self._around)
            return CredentialSource(self._auth_type_from, beside.values), self._auth_type
        if self._auth_type or self._rejected:
            return None
        path = self._around.text("databricks_cli_path") or self._saved.text("databricks_cli_path")
        if sources.find_program("databricks", path, self._env):
            return CredentialSource("the databricks command", {"databricks_cli_path": path}), "databricks-cli"
        if target.endswith(_AZURE) and sources.find_program("az", None, self._env):
            from . import external_tokens

            if external_tokens.is_sdk_installed():
                return CredentialSource("the az command"), "azure-cli"
        return None

    def _nothing(self, target: str, where: CredentialSource) -> str:
        foreign = "".join(f" {one}, and go nowhere else." for one in self._rejected)
        missing_halves = "".join(half for place in (self._around, self._saved) for half in place.missing_halves())
        asked = f" of the kind {self._auth_type} (from {self._auth_type_from})" if self._auth_type else ""
        return (
            f"no credentials{asked} are configured for {target} (from {where.called('host')}).{foreign}{missing_halves}"
            " Pass token=, set DATABRICKS_TOKEN together with DATABRICKS_HOST, or name a profile= that has both."
        )


def _known(owner: str | None) -> str | None:
    """The normal form of a host that is not this call's own; None where it has none."""
    try:
        return normal_host(owner) if owner else None
    except ConfigError:
        return None


def _auth(place: CredentialSource, kind: str, host: str, env: Mapping[str, str]) -> Auth:
    """The auth of one kind from one place."""
    values: Mapping[str, Any] = place.values
    if kind == "pat":
        return auth_for(values["token"])
    if kind == "basic":
        return static_auth(basic(values["username"], values["password"]))
    if place.ask is not None:
        return CallbackAuth(place.ask)
    return RefreshingAuth(_fetch(place, kind, host, env))


def _fetch(place: CredentialSource, kind: str, host: str, env: Mapping[str, str]) -> Fetch:
    from . import external_tokens, oauth  # here: most clients have a token, and need neither

    values, text = place.values, place.text
    issuer = oauth.Issuer(host, text("account_id"), text("discovery_url"))
    if kind == "oauth-m2m":
        return oauth.service_principal(issuer, values["client_id"], values["client_secret"])
    if kind == "env-oidc":
        name = values["oidc_token_env"]
        return oauth.federation(issuer, name, lambda: os.environ.get(name), text("client_id"))
    if kind == "file-oidc":
        path = Path(values["oidc_token_filepath"])
        return oauth.federation(issuer, str(path), path.read_text, text("client_id"))
    if kind == "metadata-service":
        return oauth.metadata_service(text("metadata_service_url") or "", host)
    if place.file is not None:
        return external_tokens.serving_file(place.file)
    if kind == "databricks-cli":
        found = sources.find_program("databricks", text("databricks_cli_path"), env)
        if found is None:
            raise ConfigError(f"{place.name} says databricks-cli, and there is no `databricks` command on the PATH.")
        return external_tokens.cli_login(found, host, text("profile"))
    return external_tokens.official_sdk(kind, host, values, place.name)
