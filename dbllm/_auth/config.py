"""Which workspace, with which credentials, and where both were found.

The order: arguments, environment, a profile of `~/.databrickscfg`, the notebook or model serving container this runs
in, the login of the Databricks CLI. A credential is never sent to a host it was not configured for: one from the
environment belongs to DATABRICKS_HOST, if that is set, a profile's to the profile's host. A credential that was
configured without a host may go to the host that the caller passes as `host=`, and to no other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .._http.tls import Network
from .._lazy import WholeImport
from .._urls import parse_host
from ..errors import ConfigError
from . import sources
from .auth import Auth, CallbackAuth, StaticAuth, Token, auth_for, basic, token_flaw
from .profile import parse_bool
from .redaction import Misplaced, RedactedMapping, Secret, repr_or_mask, wrap_secrets
from .refresh import Fetch, RefreshingAuth
from .sources import ASKED_FOR, CredentialSource

_AZURE = (".azuredatabricks.net", ".databricks.azure.us", ".databricks.azure.cn")


@dataclass(frozen=True, slots=True)
class Config:
    """What a client uses, and where it was found; its str says that in a sentence without secrets.

    Attributes:
        host: the workspace.
        auth: returns the headers.
        kind: the kind of auth, as `auth_type` names it; "function" for a token function.
        cluster_id: the cluster of driver apps.
        host_from, auth_from: where they were found.
        verify: False if the profile says skip_verify.
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
        """How to connect: as the client was asked to, otherwise as the profile says."""
        return asked if self.verify or asked.verify is not True else replace(asked, verify=False)

    def __str__(self) -> str:
        kind = sources.NAMES.get(self.kind, self.kind)
        return f"host {self.host} from {self.host_from}, {kind} from {self.auth_from}"


def normal_host(host: str) -> str:
    """`scheme://name[:port]` of a workspace, as `parse_host` gives it.

    Raises:
        ConfigError: it is no address of a workspace.
    """
    normal, flaw = parse_host(host)
    if flaw:
        raise ConfigError(f"host {flaw}.")
    return normal


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
        host, token, profile, client_id, client_secret, auth_type: as the caller passed them, or a `Secret`.
        env: the environment.
        home: the folder of `.databrickscfg`; the user's home by default.

    Raises:
        ConfigError: something is missing, unreadable, or would mix a credential with a foreign host.
    """
    env = RedactedMapping(env)
    passed = {"host": host, "token": token, "client_id": client_id, "client_secret": client_secret}
    given = wrap_secrets({**passed, "profile": profile, "auth_type": auth_type})
    del passed  # see `Misplaced`: only `given` hides what may be secret
    for name, value in given.items():
        if isinstance(value, Misplaced):
            raise ConfigError(f"the argument {name}= {value.flaw}.")
        if value is not None and not value:  # taken for "not given", another identity would call
            raise ConfigError(f"{name}= is empty; leave it out (None) to have it found.")
    explicit = CredentialSource("the arguments", given, {name: f"the argument {name}=" for name in given})
    there = {name for name in ("token", "client_id", "client_secret") if given[name]}
    if there and there not in ({"token"}, {"client_id", "client_secret"}):
        raise ConfigError("pass either token=, or client_id= and client_secret= together.")
    if flaw := explicit.unknown_auth_type():
        raise ConfigError(flaw)
    if there and explicit.auth_type() not in (None, "pat" if "token" in there else "oauth-m2m"):
        shown = repr_or_mask(given["auth_type"])
        raise ConfigError(f"auth_type={shown} does not go with {' and '.join(sorted(there))}=: leave it out.")
    return _Resolver(explicit, env, home or _home()).config()


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and no entry in passwd: a container that runs under an arbitrary user id
        return None


class _Resolver:
    """One search through the places."""

    def __init__(self, explicit: CredentialSource, env: Mapping[str, str], home: Path | None) -> None:
        self._explicit, self._env, self._home = explicit, env, home
        self._profile = explicit.text("profile")
        self._variables = sources.from_environment(env)
        # A profile that the caller names comes before the environment, whose credentials are then left alone.
        self._around = CredentialSource("the environment") if self._profile else self._variables
        asking = explicit if explicit.text("auth_type") else self._around
        self._auth_type, self._auth_type_from = asking.auth_type(), asking.called("auth_type")
        self._flaw = asking.unknown_auth_type()
        self._rejected: list[str] = []
        self._saved = CredentialSource("")  # the profile, read once it is needed

    def config(self) -> Config:
        """The first host and the first credentials that belong to it."""
        if self._flaw:
            raise ConfigError(self._flaw)
        if self._profile:
            self._profile_place()  # raises if there is no such profile
        where = next((place for place in self._places() if place.text("host")), None)
        if where is None:
            raise ConfigError(
                f"{self._saved.name} has no host: write host = https://… into it, or pass host=."
                if self._profile
                else "no workspace host is configured: pass host=, set DATABRICKS_HOST, or add a profile to "
                f"~/.databrickscfg.{sources.misnamed_variables(self._env)}{self._other_profiles()} Without an account, "
                "`dbllm up` starts a workspace on this machine."
            )
        target = normal_host(where.text("host") or "")
        if target.startswith("https://accounts."):
            raise ConfigError(
                f"{target} (from {where.called('host')}) is the account console, where no models are served: give the "
                "workspace's own address, as its browser shows it."
            )
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
            self._variables.text("cluster_id") or saved.text("cluster_id"),
            where.called("host"),
            place.called(sources.KINDS.get(kind, (kind,))[0]),
            not (saved.owner() == target and parse_bool(skip, f"skip_verify of {saved.name}")),
            (*self._rejected, *beside),
        )

    def _places(self) -> Iterator[CredentialSource]:
        """In order; a later place is not read while an earlier one suffices."""
        yield self._explicit
        if not self._profile:
            yield self._around
        yield self._profile_place()
        if not self._profile:
            yield from filter(None, (sources.from_notebook(self._env), sources.from_model_serving(self._env)))

    def _profile_place(self) -> CredentialSource:
        if not self._saved.name:
            name = self._profile or self._variables.text("config_profile")
            if (file := self._config_file()) is None:
                if name:
                    raise ConfigError(
                        f"profile {repr_or_mask(name)} was asked for, and the user this runs as has no home folder: "
                        "set HOME or DATABRICKS_CONFIG_FILE."
                    )
                self._saved = CredentialSource("no profile")
            else:
                self._saved = sources.from_profile(file, name, self._home)
        return self._saved

    def _config_file(self) -> Path | None:
        file = self._variables.text("config_file") or "~/.databrickscfg"
        if not file.startswith("~"):
            return Path(file)
        try:
            return self._home / file[2:] if self._home and file.startswith("~/") else Path(file).expanduser()
        except RuntimeError:
            return None

    def _other_profiles(self) -> str:
        file = self._config_file()
        if file is None or not (self._variables.text("config_file") or file.exists()):
            return ""
        return sources.other_profiles(file, self._home)

    def _found(self, target: str) -> Iterator[tuple[CredentialSource, str]]:
        """Credentials that may go to `target`; the others are noted in `_rejected`."""
        for place in self._places():
            asked = self._auth_type or place.auth_type()
            kinds = place.kinds()
            if place is not self._explicit and asked:  # what the caller passed is used whatever its kind
                if (flaw := place.unknown_auth_type()) and place.owner() == target:
                    raise ConfigError(flaw)
                login = place is self._saved and asked in ASKED_FOR and asked == place.auth_type()
                kinds = [asked] if asked in kinds or login else []
            if "env-oidc" in kinds and not self._env.get(place.text("oidc_token_env") or ""):
                kinds.remove("env-oidc")
            if not kinds:
                continue
            owner = place.owner()
            if place is self._explicit or owner == target or (owner is None and self._explicit.text("host")):
                yield place, kinds[0]
            else:
                whose = owner or "no host (none is set beside them)"
                self._rejected.append(f"The credentials of {place.name} ({kinds[0]}) belong to {whose}")

    def _cli_login(self, target: str) -> tuple[CredentialSource, str] | None:
        """A login that was asked for; otherwise the CLI's, unless credentials for another host were found."""
        if self._auth_type in ASKED_FOR:
            beside = next((place for place in self._places() if place.owner() == target), self._around)
            return CredentialSource(self._auth_type_from, beside.values), self._auth_type
        if self._auth_type or self._rejected:
            return None
        path = self._around.text("databricks_cli_path") or self._saved.text("databricks_cli_path")
        if sources.find_program("databricks", path, self._env):
            return CredentialSource("the databricks command", {"databricks_cli_path": path}), "databricks-cli"
        if target.endswith(_AZURE) and sources.find_program("az", None, self._env):
            with WholeImport():
                from . import external_tokens

            if external_tokens.is_sdk_installed():
                return CredentialSource("the az command"), "azure-cli"
        return None

    def _nothing(self, target: str, where: CredentialSource) -> str:
        foreign = "".join(f" {one}, and go nowhere else." for one in self._rejected)
        missing_halves = "".join(half for place in (self._around, self._saved) for half in place.missing_halves())
        asked = f" of the kind {self._auth_type} (from {self._auth_type_from})" if self._auth_type else ""
        foreign += sources.misnamed_variables(self._env)
        return (
            f"no credentials{asked} are configured for {target} (from {where.called('host')}).{foreign}{missing_halves}"
            f"{'' if self._saved.values else self._other_profiles()} Pass token=, set DATABRICKS_TOKEN together with "
            "DATABRICKS_HOST, or name a profile= that has both."
        )


def _auth(place: CredentialSource, kind: str, host: str, env: Mapping[str, str]) -> Auth:
    """The auth of one kind from one place."""
    values: Mapping[str, Any] = place.values
    if kind == "pat":
        return auth_for(values["token"], place.place_of("token"))
    if kind == "basic":
        return StaticAuth(basic(place.text("username") or "", values["password"]))
    if place.ask is not None:
        return CallbackAuth(place.ask)
    return RefreshingAuth(_fetch(place, kind, host, env))


def _fetch(place: CredentialSource, kind: str, host: str, env: Mapping[str, str]) -> Fetch:
    with WholeImport():
        from . import external_tokens, oauth  # here: most clients have a token, and need neither

    values, text = place.values, place.text
    issuer = oauth.Issuer(host, text("account_id"), text("discovery_url"))
    if kind == "oauth-m2m":
        if flaw := token_flaw(values["client_secret"]):
            raise ConfigError(f"{place.place_of('client_secret')} {flaw}.")
        return oauth.service_principal(issuer, text("client_id") or "", values["client_secret"])
    if kind == "env-oidc":
        name = text("oidc_token_env") or ""
        return oauth.federation(issuer, name, lambda: os.environ.get(name), text("client_id"))
    if kind == "file-oidc":
        path = Path(text("oidc_token_filepath") or "")
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
    for name in values:
        text(name)  # raises for a value that may hold a credential: the SDK would show it in its errors
    return external_tokens.official_sdk(kind, host, values, place.name)
