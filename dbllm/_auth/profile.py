"""The file `~/.databrickscfg` that all Databricks tools share. Every error names the file and the line."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .._lazy import WholeImport
from ..errors import ConfigError
from .redaction import SECRETS, Secret, repr_or_mask, wrap_secret

if TYPE_CHECKING:
    import configparser

log = logging.getLogger("dbllm.auth")

_SETTINGS = "__settings__"  # a section of the file that is no profile
_COMMENT = re.compile(r"\s[#;]|^[#;]")
_FREE = frozenset({"password", "google_credentials"})  # " #" may be part of these
_warned: set[Path] = set()


def parse_bool(value: str, place: str) -> bool:
    """A boolean as people write it.

    Raises:
        ConfigError: it is none; `place` is what the message calls it.
    """
    word = value.strip().strip("\"'").lower()
    if word in ("1", "true", "yes", "on", "y", "t"):
        return True
    if word in ("", "0", "false", "no", "off", "n", "f"):
        return False
    raise ConfigError(f"{place} must be true or false, got {repr_or_mask(value)}.")


def read_profile(path: Path, name: str | None) -> tuple[str, Mapping[str, str | Secret]]:
    """A profile of the file: its name and its keys. Without a name: the default one, empty if there is none.

    The file's grammar is that of the Databricks tools: INI; `[DEFAULT]` is a profile whose keys the others do not
    inherit; `[__settings__] default_profile` names the default; a comment has a line to itself.

    Raises:
        ConfigError: the file cannot be read or parsed, or has no such profile.
    """
    text = _text(path, name)
    parser = _parsed(text, path)
    chosen = name or parser.get(_SETTINGS, "default_profile", fallback="") or "DEFAULT"
    if not parser.has_section(chosen) or chosen == _SETTINGS:
        if chosen == "DEFAULT" and not name:
            return chosen, {}
        known = ", ".join(_names(parser)) or "none"
        asked = "" if name else f", which [{_SETTINGS}] calls default_profile"
        shown, chosen = repr_or_mask(chosen), ""  # it may have swallowed a token, which no traceback shall show
        raise ConfigError(f"{path} has no profile {shown}{asked}; it has: {known}. Name one that is there.")
    values = {key: wrap_secret(key, value) for key, value in parser.items(chosen) if value}
    for key, value in values.items():
        if key not in _FREE and _COMMENT.search(value.reveal() if isinstance(value, Secret) else value):
            line = _line(text, chosen, key)
            raise ConfigError(
                f"{path}, line {line}: {shown_name(key)} in [{chosen}] has a comment behind it, which would be part of "
                "the value: give the comment a line to itself."
            )
    if SECRETS & values.keys():
        _warn_if_open(path)
    return chosen, values


def profile_names(path: Path) -> list[str]:
    """The profiles of the file."""
    return _names(_parsed(_text(path, None), path))


def _names(parser: configparser.RawConfigParser) -> list[str]:
    return [shown_name(section) for section in parser.sections() if section != _SETTINGS]


def shown_name(name: str) -> str:
    """A name of the file as a message shows it; a broken line may have made a name of a token."""
    return name if repr_or_mask(name) == repr(name) else "***"


def _text(path: Path, name: str | None) -> Secret:
    try:
        return Secret(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        if name:
            raise ConfigError(
                f"profile {repr_or_mask(name)} was asked for, and there is no file {path}: `databricks auth login` "
                "writes it, and DATABRICKS_CONFIG_FILE names another."
            ) from None
        return Secret("")
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 (byte {error.start}): save it as UTF-8"
    except OSError as error:
        reason = f"{error.strerror or type(error).__name__}"
    raise ConfigError(f"{path} cannot be read: {reason}.")


def _parsed(text: Secret, path: Path) -> configparser.RawConfigParser:
    with WholeImport():
        import configparser  # here: where host and token are given, no file is read

    parser = configparser.RawConfigParser(default_section="\0", strict=True)
    flaw = ""
    try:
        parser.read_string(text.reveal(), str(path))
    except configparser.DuplicateOptionError as error:
        flaw = (
            f"line {error.lineno}: {shown_name(error.option)!r} stands twice in [{shown_name(error.section)}]: keep one"
        )
    except configparser.DuplicateSectionError as error:
        flaw = f"line {error.lineno}: [{shown_name(error.section)}] stands twice: make one of them"
    except configparser.MissingSectionHeaderError as error:
        flaw = f"line {error.lineno}: something stands before the first [profile]: begin with a line such as [DEFAULT]"
    except configparser.ParsingError as error:  # the offending lines may hold a token: only their numbers
        lines = ", ".join(str(number) for number, _ in error.errors)
        flaw = f"line {lines}: this is neither 'key = value' nor '[profile]': write it so, or take it out"
    if flaw:
        raise ConfigError(f"{path}, {flaw}.")
    return parser


def _line(text: Secret, section: str, key: str) -> int:
    inside = False
    for number, line in enumerate(text.reveal().splitlines(), 1):
        if line.startswith("["):
            inside = line.strip() == f"[{section}]"
        elif inside and re.match(rf"{re.escape(key)}\s*[=:]", line.strip(), re.IGNORECASE):
            return number
    return 0


def _warn_if_open(path: Path) -> None:
    """Warn once that other users may read the file."""
    if os.name == "nt" or path in _warned:
        return
    _warned.add(path)
    if path.stat().st_mode & 0o004:
        log.warning("%s holds credentials, and every user of this machine may read it: chmod 600 %s", path, path)
