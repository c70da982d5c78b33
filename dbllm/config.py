"""Which workspace, with which token, and where both were found.

Arguments, then environment, then a profile of `~/.databrickscfg`; never a mixture that sends a token to a host it was
not configured for. A token from the environment belongs to DATABRICKS_HOST where that is set, a profile's token to the
profile's host. A token that was set without a host may go to the host the caller names.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from .auth import Token
from .errors import ConfigError
from .target import is_loopback

_NAME = re.compile(r"[\w.-]+")
_SETTINGS = "__settings__"  # a section of the file that is no profile


@dataclass(frozen=True, slots=True)
class Config:
    """What a client uses, and where it was found."""

    host: str
    token: Token = field(repr=False)
    cluster_id: str | None = None
    host_from: str = ""
    token_from: str = ""


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
    host: str | None, token: Token | None, profile: str | None, *, env: Mapping[str, str], home: Path | None = None
) -> Config:
    """Find host and token.

    Args:
        host: as the caller gave it.
        token: as the caller gave it.
        profile: as the caller gave it.
        env: the environment (DATABRICKS_HOST, _TOKEN, _CONFIG_PROFILE, _CONFIG_FILE, _CLUSTER_ID).
        home: the folder of `.databrickscfg`; the user's home by default.

    Raises:
        ConfigError: something is missing, unreadable, or would mix a token with a foreign host.
    """
    for name, given in (("host", host), ("token", token), ("profile", profile)):
        if given is not None and not given:  # not to be taken for "not given": another identity would call
            raise ConfigError(f"{name}= is empty; leave it out (None) to have it found.")
    chosen = profile or env.get("DATABRICKS_CONFIG_PROFILE") or None
    path = Path(env.get("DATABRICKS_CONFIG_FILE") or (home or Path.home()) / ".databrickscfg").expanduser()
    env_host, env_token = env.get("DATABRICKS_HOST") or None, env.get("DATABRICKS_TOKEN") or None
    # A profile named in the call stands before the environment; one that only lies there comes last.
    saved: Mapping[str, str] = {}
    section = ""
    if profile or not ((host or env_host) and (token or env_token)):
        section, saved = read_profile(path, chosen)
    if profile:
        env_host = env_token = None
    saved_from = f"profile [{section}] of {path}"

    hosts = [(host, "the argument host="), (env_host, "DATABRICKS_HOST"), (saved.get("host"), saved_from)]
    found_host, host_from = next(((value, place) for value, place in hosts if value), (None, ""))
    if found_host is None:
        raise ConfigError(
            "no workspace host is configured: pass host=, set DATABRICKS_HOST, or add a profile to ~/.databrickscfg. "
            "Without an account, `dbllm up` starts a workspace on this machine."
        )
    target = normal_host(found_host)

    # (token, where it was found, the host it belongs to; None: to whichever the caller names)
    tokens: list[tuple[Token | None, str, str | None]] = [
        (token, "the argument token=", None),
        (env_token, "DATABRICKS_TOKEN", env_host),
        (saved.get("token"), saved_from, saved.get("host")),
    ]
    foreign = ""
    for value, place, owner in tokens:
        if not value:
            continue
        if owner is None and place == "DATABRICKS_TOKEN" and host is None:
            owner = "no host (DATABRICKS_HOST is not set)"  # never guessed into a profile's host
        elif owner is None or normal_host(owner) == target:
            cluster = env.get("DATABRICKS_CLUSTER_ID") or saved.get("cluster_id") or None
            return Config(target, value, cluster, host_from, place)
        foreign = foreign or f" The token of {place} belongs to {owner}, and goes nowhere else."
    raise ConfigError(
        f"no token is configured for {target} (from {host_from}).{foreign} Pass token=, set DATABRICKS_TOKEN together "
        "with DATABRICKS_HOST, or name a profile= that has both."
    )


def read_profile(path: Path, name: str | None) -> tuple[str, Mapping[str, str]]:
    """A profile of the file: its name and its keys. Without a name: the default one, empty where there is none.

    The file's grammar is that of the Databricks tools: INI, `[DEFAULT]` is a profile like the others and passes nothing
    on, `[__settings__] default_profile` names the default.

    Raises:
        ConfigError: the file cannot be read or parsed, or has no such profile.
    """
    parser = configparser.RawConfigParser(default_section="\0", strict=True)
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        text = ""
        if name:
            raise ConfigError(f"profile {name!r} was asked for, and there is no file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    try:
        parser.read_string(text, str(path))
    except configparser.DuplicateOptionError as error:
        raise ConfigError(f"{path}, line {error.lineno}: {error.option!r} stands twice in [{error.section}].") from None
    except configparser.DuplicateSectionError as error:
        raise ConfigError(f"{path}, line {error.lineno}: [{error.section}] stands twice.") from None
    except configparser.MissingSectionHeaderError as error:
        raise ConfigError(f"{path}, line {error.lineno}: something stands before the first [profile].") from None
    except configparser.ParsingError as error:  # the offending lines may hold a token: only their numbers
        lines = ", ".join(str(number) for number, _ in error.errors)
        raise ConfigError(f"{path}, line {lines}: this is neither 'key = value' nor '[profile]'.") from None
    name = name or parser.get(_SETTINGS, "default_profile", fallback="") or None
    chosen = name or "DEFAULT"
    if parser.has_section(chosen) and chosen != _SETTINGS:
        return chosen, {key: value for key, value in parser.items(chosen) if value}
    if name:
        known = ", ".join(section for section in parser.sections() if section != _SETTINGS) or "none"
        raise ConfigError(f"{path} has no profile {name!r}; it has: {known}.")
    return chosen, {}
