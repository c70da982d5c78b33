"""Where host and credentials are configured, and what each place has. Nothing is sent, and no program is started."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from .._urls import parse_host
from ..errors import ConfigError
from .auth import bearer
from .profile import parse_bool, profile_names, read_profile, shown_name
from .redaction import Misplaced, RedactedMapping, repr_or_mask, wrap_secret, wrap_secrets

# Variable: the attribute that it sets; of two for one attribute the first that is set wins (databricks-sdk: Config).
_NAMED_ALIKE = (
    "host token username password client_id client_secret auth_type account_id discovery_url "
    "oidc_token_env oidc_token_filepath token_audience metadata_service_url cluster_id google_service_account"
)
VARIABLES = {
    **{f"DATABRICKS_{name.upper()}": name for name in _NAMED_ALIKE.split()},
    **{f"ARM_{name.upper()}": f"azure_{name}" for name in ("client_id", "client_secret", "tenant_id", "environment")},
    "DATABRICKS_CLI_PATH": "databricks_cli_path",
    "DATABRICKS_CONFIG_FILE": "config_file",
    "DATABRICKS_CONFIG_PROFILE": "config_profile",
    "DATABRICKS_OIDC_TOKEN_FILE": "oidc_token_filepath",
    "DATABRICKS_AZURE_RESOURCE_ID": "azure_workspace_resource_id",
    "GOOGLE_CREDENTIALS": "google_credentials",
}

_MISNAMED = {  # what other tools and older examples read
    **dict.fromkeys(("SERVER_HOSTNAME", "WORKSPACE_URL", "URL", "INSTANCE", "API_BASE", "BASE_URL"), "HOST"),
    **dict.fromkeys(("ACCESS_TOKEN", "API_KEY", "API_TOKEN", "PAT", "PERSONAL_ACCESS_TOKEN"), "TOKEN"),
}

# Kind: the attributes it needs; in the order in which the official SDK tries them.
KINDS: dict[str, tuple[str, ...]] = {
    "pat": ("token",),
    "basic": ("username", "password"),
    "metadata-service": ("metadata_service_url",),
    "oauth-m2m": ("client_id", "client_secret"),
    "env-oidc": ("oidc_token_env",),
    "file-oidc": ("oidc_token_filepath",),
    "azure-client-secret": ("azure_client_id", "azure_client_secret", "azure_tenant_id"),
    "google-credentials": ("google_credentials",),
    "google-id": ("google_service_account",),
}
NAMES = {
    "pat": "PAT",
    "basic": "user name and password",
    "oauth-m2m": "OAuth service principal",
    "env-oidc": "OIDC federation",
    "file-oidc": "OIDC federation",
    "runtime": "notebook token",
    "model-serving": "model serving token",
    "databricks-cli": "CLI login",
    "function": "token function",
}
ASKED_FOR = frozenset(
    {"databricks-cli", "azure-cli", "azure-devops-oidc", "github-oidc", "github-oidc-azure"}
    | {"external-browser", "runtime-oauth"}
)
"""Kinds that need nothing but their name in `auth_type`. All but the first are left to the official SDK."""
KNOWN = sorted(ASKED_FOR | KINDS.keys() | {"runtime", "model-serving"})
"""All kinds that `auth_type` can name."""

_OIDC_TOKEN = "DATABRICKS_OIDC_TOKEN"  # noqa: S105 - a variable's name


@dataclass(frozen=True, slots=True)
class CredentialSource:
    """One place and the settings in it; credentials of one place are never used with another's host.

    Attributes:
        name: what messages call it.
        values: attribute → value, as `wrap_secrets` gives them.
        names: attribute → its name there (a variable, an argument), if it has one of its own.
        ask: returns the headers, if the place can compute them at once (a notebook).
        file: a token file (model serving).
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    names: Mapping[str, str] = field(default_factory=dict)
    ask: Callable[[], Mapping[str, str]] | None = None
    file: Path | None = None

    def text(self, attribute: str) -> str | None:
        """A value that is no secret, or None.

        Raises:
            ConfigError: it is no str, or may hold a credential.
        """
        value = self.values.get(attribute)
        if isinstance(value, Misplaced):
            raise ConfigError(f"{self.place_of(attribute)} {value.flaw}.")
        return value if isinstance(value, str) and value else None

    def owner(self) -> str | None:
        """The workspace that the credentials here belong to, in its normal form; None if no host is set."""
        return parse_host(self.text("host") or "")[0] or None

    def auth_type(self) -> str | None:
        """The kind of auth that is chosen here, as `KNOWN` spells it: people quote it and write PAT or oauth_m2m."""
        text = (self.text("auth_type") or "").strip().strip("\"'").lower().replace("_", "-")
        return text or None

    def unknown_auth_type(self) -> str:
        """What to say if `auth_type` names no kind; "" if it does."""
        if self.auth_type() in (None, *KNOWN):
            return ""
        shown, where = repr_or_mask(self.text("auth_type") or ""), self.called("auth_type")
        return f"auth_type {shown} (from {where}) is not known. There are: {', '.join(KNOWN)}."

    def called(self, attribute: str) -> str:
        """Where a setting was found: a variable, an argument, or the whole place."""
        return self.names.get(attribute, self.name)

    def place_of(self, attribute: str) -> str:
        """Which setting an error is about."""
        return self.names.get(attribute) or f"{attribute} of {self.name}"

    def kinds(self) -> list[str]:
        """The kinds of auth that are complete here, the preferred one first."""
        if self.ask is not None or self.file is not None:
            return ["runtime" if self.ask is not None else "model-serving"]
        return [kind for kind, needed in KINDS.items() if all(self.values.get(one) for one in needed)]

    def missing_halves(self) -> Iterator[str]:
        """Sentences about kinds of auth of which only one half is here."""
        for needed in (KINDS["oauth-m2m"], KINDS["basic"]):
            for one, other in (needed, needed[::-1]):
                if self.values.get(one) and not self.values.get(other):
                    yield f" {self.called(one)} is there, but no {other} beside it."


def from_environment(env: Mapping[str, str]) -> CredentialSource:
    """The settings of the environment."""
    names: dict[str, str] = {}
    for variable, attribute in VARIABLES.items():
        if env.get(variable, "").strip():
            names.setdefault(attribute, variable)
    values = wrap_secrets({attribute: env[variable].strip() for attribute, variable in names.items()})
    if "oidc_token_env" not in values and env.get(_OIDC_TOKEN):
        values["oidc_token_env"] = names["oidc_token_env"] = _OIDC_TOKEN
    return CredentialSource("the environment", values, names)


def misnamed_variables(env: Mapping[str, str]) -> str:
    """Sentences about variables that are set under a name that is not read."""
    found = [name for name in _MISNAMED if env.get(f"DATABRICKS_{name}")]
    return "".join(f" DATABRICKS_{name} is not read: set DATABRICKS_{_MISNAMED[name]}." for name in found)


def from_profile(path: Path, name: str | None, home: Path | None) -> CredentialSource:
    """The settings of a profile; empty if there is no such file and no profile was named."""
    section, values = read_profile(path, name)
    place = f"profile [{shown_name(section)}] of {_short(path, home)}"
    return CredentialSource(place, {**wrap_secrets(values), "profile": section} if values else {})


def other_profiles(path: Path, home: Path | None) -> str:
    """A sentence about a file that is missing, or whose profiles were not asked for; "" if there is nothing to say."""
    if not path.exists():
        return f" There is no file {_short(path, home)}."
    names = ", ".join(profile_names(path))
    return (
        f" {_short(path, home)} has: {names}. Choose one with profile= or DATABRICKS_CONFIG_PROFILE." if names else ""
    )


def _short(path: Path, home: Path | None) -> str:
    return f"~/{path.relative_to(home)}" if home is not None and path.is_relative_to(home) else str(path)


def from_notebook(env: Mapping[str, str]) -> CredentialSource | None:
    """The notebook this runs in; its token is read again for every request.

    In the order of the official SDK: the runtime's own credentials, the REPL's context, the context of dbutils.
    """
    if not env.get("DATABRICKS_RUNTIME_VERSION"):
        return None
    for look in (_native, _repl, _dbutils):
        try:
            host, ask = look()
        except Exception:  # noqa: BLE001, S112 - older and newer runtimes raise all sorts where they lack this
            continue
        if host:
            return CredentialSource("the notebook", {"host": wrap_secret("host", str(host))}, ask=ask)
    return None


def _native() -> tuple[Any, Callable[[], Mapping[str, str]]]:
    host, inner = import_module("dbruntime.sdk_credential_provider").init_runtime_native_auth()
    return host, lambda: RedactedMapping({name.lower(): value for name, value in inner().items()})


def _repl() -> tuple[Any, Callable[[], Mapping[str, str]]]:
    ask = import_module("dbruntime.databricks_repl_context").get_context
    context = ask()
    ours = context.workspaceUrl or context.browserHostName if context.apiToken else None
    return ours, lambda: bearer(ask().apiToken)


def _dbutils() -> tuple[Any, Callable[[], Mapping[str, str]]]:
    shell = sys.modules["IPython"].get_ipython()

    def context() -> Any:
        return shell.user_ns["dbutils"].notebook.entry_point.getDbutils().notebook().getContext()

    return context().apiUrl().get(), lambda: bearer(context().apiToken().get())


def from_model_serving(env: Mapping[str, str]) -> CredentialSource | None:
    """The container of a served model: a file that the platform keeps fresh."""
    flags = ("IS_IN_DB_MODEL_SERVING_ENV", "IS_IN_DATABRICKS_MODEL_SERVING_ENV")
    if not any(parse_bool(env.get(flag, ""), flag) for flag in flags):
        return None
    folder = env.get("SERVING_CREDENTIALS_DIR") or "/var/credentials-secret"
    file = Path(folder) / "model-dependencies-oauth-token"
    host = env.get("DATABRICKS_MODEL_SERVING_HOST_URL") or env.get("DB_MODEL_SERVING_HOST_URL")
    values = {"host": wrap_secret("host", host)}
    return CredentialSource("model serving", values, file=file) if file.is_file() and host else None


def find_program(name: str, path: str | None, env: Mapping[str, str]) -> str | None:
    """The path of a program, or None."""
    found = shutil.which(path or name, path=env.get("PATH", os.defpath))
    if path and not found:
        raise ConfigError(f"databricks_cli_path must be a program that can be run, got {repr_or_mask(path)}.")
    return found
