"""Credentials that another program renews: the Databricks CLI, the model serving platform, the official SDK.

All of them block, so they are called in a thread if there is an event loop.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .._backends.backend import Backend
from ..errors import APIError, APITimeoutError, AuthenticationError, ConfigError
from .auth import bearer
from .redaction import RedactedMapping, Secret, hide_tokens
from .refresh import ExpiringHeaders, Fetch

FILE_LIFE = 300.0  # seconds, after which databricks-sdk reads the file again, too
SDK_LIFE = 20.0  # seconds; the SDK returns no token that ends within 40 s
_LEGACY = re.compile(r"no such command|unknown command|Usage: databricks \[OPTIONS\]", re.IGNORECASE)
_FRACTION = re.compile(r"\.(\d{6})\d*")


def cli_login(program: str, host: str, profile: str | None) -> Fetch:
    """The login of `databricks auth login`. No secret is in the arguments of the program."""
    chosen = ["--profile", profile] if profile else ["--host", host]

    async def fetch(backend: Backend, deadline: float) -> ExpiringHeaders:
        began, wall = backend.clock(), backend.wall_clock()
        got = await backend.run_in_thread(lambda: _cli_token(program, chosen, max(0.1, deadline - began), wall))
        if isinstance(got, APIError):
            raise got
        return ExpiringHeaders(bearer(got[0]), began + got[1], got[1])

    return fetch


def _cli_token(program: str, chosen: list[str], seconds: float, wall: float) -> tuple[Secret, float] | APIError:
    """(token, seconds of life), or why there is none; not raised here, where local variables hold the token."""
    command, output = [program, "auth", "token", *chosen], b""
    hint = f"Log in: databricks auth login {' '.join(chosen)}."
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds)
        output = done.stdout
        said = (done.stderr or (done.stdout if done.returncode else b"")).decode("utf-8", "replace")
        flaw = f"the Databricks CLI has no token: {_complaint(said)}" if done.returncode else ""
        if _LEGACY.search(said) and done.returncode:
            flaw = f"{program} is the old Python version of the Databricks CLI, which cannot log in like this"
            hint = "Install version 0.205 or newer (and pip uninstall databricks-cli), or pass a token."
    except subprocess.TimeoutExpired:
        return APITimeoutError(f"`databricks auth token {chosen[0]} …` did not end in time", sent=False)
    except OSError as error:
        flaw = f"the Databricks CLI has no token: it cannot be started ({error.strerror})"
    try:
        if not flaw:
            content = _first_object(output.decode("utf-8-sig"))
            moment = datetime.fromisoformat(_FRACTION.sub(r".\1", content["expiry"]).replace("Z", "+00:00"))
            moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
            if (life := moment.timestamp() - wall) > 0:
                return _secret(content["access_token"]), life
            flaw = "the token of the Databricks CLI has expired"
    except (ValueError, KeyError, TypeError, RecursionError):
        flaw = "the answer of the Databricks CLI has no token in it; is the CLI older than version 0.205?"
    return AuthenticationError(flaw, hint=hint, sent=False)


def _secret(token: object) -> Secret:
    if not isinstance(token, str) or not token:
        raise TypeError
    return Secret(token)


def _complaint(said: str) -> str:
    """The line of a program's output that says what is wrong: warnings come before it, advice after it."""
    lines = [line for line in map(str.strip, said.splitlines()) if line]
    errors = [line for line in lines if re.match(r"(fatal )?error\b", line, re.IGNORECASE)]
    others = [line for line in lines if not re.match(r"\W*(warn|info|debug|notice|usage)", line, re.IGNORECASE)]
    return hide_tokens([*errors, *others, *lines, "it failed"][0])[:500]


def _first_object(text: str) -> Any:
    """The JSON object in a program's output; lines of warnings may come before and after it.

    Raises:
        ValueError: there is none.
    """
    for line in re.finditer(r"^\s*\{", text, re.MULTILINE):
        try:
            return json.JSONDecoder().raw_decode(text, line.end() - 1)[0]
        except ValueError:
            continue
    raise ValueError("no JSON object")


def serving_file(path: Path) -> Fetch:
    """The token file in the container of a served model: `{"OAUTH_TOKEN": [{"oauthTokenValue": "…"}]}`."""

    def read() -> Secret | None:
        try:
            return _secret(json.loads(path.read_text("utf-8"))["OAUTH_TOKEN"][0]["oauthTokenValue"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None

    async def fetch(backend: Backend, deadline: float) -> ExpiringHeaders:
        began = backend.clock()
        token = await backend.run_in_thread(read)
        if token is None:
            raise ConfigError(f"{path}, the token file of model serving, cannot be read or has no token in it.")
        return ExpiringHeaders(bearer(token), began + FILE_LIFE, FILE_LIFE)

    return fetch


def official_sdk(kind: str, host: str, values: Mapping[str, Any], place: str) -> Fetch:
    """The official SDK's credentials of one kind, all their headers. It gets the values of one place and no others.

    Raises:
        ConfigError: it is not installed.
    """
    if not is_sdk_installed():
        raise ConfigError(
            f"{kind} (from {place}) needs Databricks' official SDK: pip install 'dbllm[sdk]'. "
            "A token, a service principal or a CLI login works without it."
        )
    config: Any = None

    def ask() -> RedactedMapping | str:
        nonlocal config
        try:
            if config is None:
                config = _sdk_config(kind, host, values)
            return RedactedMapping({name.lower(): value for name, value in config.authenticate().items()})
        except Exception as error:  # noqa: BLE001 - the SDK raises errors of many kinds; the message is shown
            said = f"{type(error).__name__}: {error}"
            for value in values.values():
                said = said.replace(value.reveal(), "***") if isinstance(value, Secret) else said
            return hide_tokens(said)[:1000]

    async def fetch(backend: Backend, deadline: float) -> ExpiringHeaders:
        headers = await backend.run_in_thread(ask)
        if isinstance(headers, str):
            hint = f"This is {kind} of Databricks' SDK, configured in {place}."
            raise AuthenticationError(f"no token from Databricks' SDK ({headers})", hint=hint, sent=False)
        return ExpiringHeaders(headers, backend.clock() + SDK_LIFE, SDK_LIFE)

    return fetch


def is_sdk_installed() -> bool:
    """Whether the official SDK is installed; it is not imported."""
    return find_spec("databricks") is not None and find_spec("databricks.sdk") is not None


def _sdk_config(kind: str, host: str, values: Mapping[str, Any]) -> Any:
    core = import_module("databricks.sdk.core")
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731 - keeps it from reading environment and file itself
    closed = type("Closed", (core.Config,), {"_load_from_env": nothing, "_known_file_config_loader": nothing})
    known = {attribute.name for attribute in core.Config.attributes()}
    own = {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in values.items()
        if value and name in known and name not in ("host", "auth_type", "profile", "token")
    }
    return closed(host=host, auth_type=kind, **own)
