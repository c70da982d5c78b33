"""Python's words in the terminal's: options and commands in place of arguments and methods, here for all commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

CONNECT_SECONDS = 10.0
"""What one connection may take (dbllm.Timeout.connect); no option sets it, but a lower --timeout ends it."""

OPTIONS = {
    **{name: f"--{name}" for name in ("host", "profile", "timeout", "stop", "endpoint", "concurrency", "comment")},
    **{name: f"--{name.replace('_', '-')}" for name in ("cluster_id", "max_tokens", "temperature")},
    "tags": "--tag",
    "update_mask": "--mask",
    "driver_app": "--app",
    "config": "CONFIG",
    "served_entity": "ENTITY",
    "url": "https://…",
    "session_id": "a session id",
}
"""Python's arguments: what a command has for them."""

VARIABLES = {
    "token": "DATABRICKS_TOKEN",
    "client_id": "DATABRICKS_CLIENT_ID",
    "client_secret": "DATABRICKS_CLIENT_SECRET",
    "auth_type": "DATABRICKS_AUTH_TYPE",
    "proxy": "HTTPS_PROXY",
}
"""Arguments that a command reads from the environment alone."""

NAMED = {
    "requests_per_minute": "--rpm",
    "requests_per_hour": "--rph",
    "input_tokens_per_minute": "--itpm",
    "output_tokens_per_minute": "--otpm",
    "input_format": "--input-format",
    "max_error_rate": "--max-error-rate",
}
"""Names that stand in sentences without a sign, and are long enough to be nothing else."""


def _slow_dial(found: re.Match[str]) -> str:
    cut_short = float(found[2]) < CONNECT_SECONDS
    return f"{found[1]}{'; a longer --timeout allows more time' if cut_short else ''}."


_Words = str | Callable[[re.Match[str]], str]
_TABLE: tuple[tuple[str, _Words], ...] = (
    # what only Python can do is left out
    (r"(no connection to \S+ within ([\d.e-]+) s.*); Timeout\(connect=…\) allows more time\.", _slow_dial),
    (r"Timeout\(read=…\) allows more time between two events\. ?", ""),
    (r"; Retry\(breaker=False\) calls at once", ""),
    (r"(--[\w-]+ \S+) \(\w+=[^()]*\)", r"\1"),  # both are named
    (r", or use verify='system'", ""),
    (r" If it is an agent that knows them nevertheless, pass extra_body=\{.*?\}\.", ""),
    (r"The text received so far is in error\.partial_text; call again", "Call again"),
    (r" ?Look at error\.raw for the whole answer\.", ""),
    (r", such as token\.strip\(\)", ""),
    (r"a client certificate, cert=, may", "a client certificate may"),
    (r"pass cert=\(certificate file, key file\)", "a command has none to show, a program's `dbllm.Client` has"),
    (r"pass verify= a file with its CA, set SSL_CERT_FILE to that file", "set SSL_CERT_FILE to a file with its CA"),
    (r" A model that does take .+? gets it by extra_body=\{.*?\}\.", ""),
    (r"Drop it with text\.encode\(.*?\)\.decode\(\), or decode the text anew, in its own encoding", "Save it as UTF-8"),
    (r"('.*?') would go to the model\. For dbllm's own option use .*", r"\1 is no parameter of a model; see --help."),
    (r"has no (\w+)=: use (?!(?:max_tokens|temperature|stop|timeout)=)(\w+)=", r"has no parameter \1: use --param \2"),
    (r"has no (\w+)=:", r"has no parameter \1:"),
    (r" ?\(None\)", ""),
    (r",? or None( \(no limit\)| \(adaptive\))?", ""),
    (r", a str that is not empty", " that is not empty"),
    (r"\ba str\b", "text"),
    (r"\ba (?:list of )?dicts?\b", lambda found: "a list of objects" if "list" in found[0] else "an object"),
    (r"\bTimeout: total (must)", r"--timeout \1"),
    (r"\btimeout (must be seconds), a number, or a dbllm\.Timeout", r"--timeout \1"),
    (r"\bLimits: ", ""),
    (r"\bLimits\(concurrency=…\)", "--concurrency"),
    (r"^verb must", "--verb must"),
    # commands
    (r"use chat\(\.\.\., n=(\w+|\{.*?\})\)", r"use `dbllm chat --json --param n=\1`"),
    (r"say which it is with task=", "use `dbllm chat` or `dbllm predict`, which say it"),
    (r"Say where the text is with transform_output=\.", "`dbllm predict` prints the whole answer."),
    (r"use client\.agent\(url=…\) for it", "use `dbllm respond` with it"),
    (r"use client\.agent\(['\"]?(.*?)['\"]?\)", r"use `dbllm respond apps/\1`"),
    (r"give an address as url=, or the name alone", "write apps/NAME, or its address, https://…"),
    (r"pass either its name or its url=", "write apps/NAME, or its address, https://…"),
    (r"client\.endpoints\.list\(\)( has (?:them|the names))?", r"`dbllm endpoints list`\1"),
    (r"call client\.endpoint\(['\"]?(.*?)['\"]?\)", r"name the endpoint, \1"),
    (r"client\.endpoint\(['\"]?(.*?)['\"]?\)", r"the endpoint \1"),
    (r"endpoints\.build_logs\(\) and logs\(\)", "`dbllm endpoints logs`, with --build and without,"),
    (r"endpoints\.build_logs\(\)", "`dbllm endpoints logs --build`"),
    (r"\b(chat|complete|embed|predict|respond)\(\)", r"`dbllm \1`"),
    # environment
    (r"token=, set DATABRICKS_TOKEN", "DATABRICKS_TOKEN"),
    (r"DATABRICKS_TOKEN, pass token=", "DATABRICKS_TOKEN"),
    *((rf"\b{name}= or {variable}\b", variable) for name, variable in VARIABLES.items()),
    *((rf"\bPass {name}=", f"Set {variable}") for name, variable in VARIABLES.items()),
    *((rf"\bpass (either )?{name}=", rf"set \1{variable}") for name, variable in VARIABLES.items()),
    (r"\bPass (DATABRICKS_\w+)", r"Set \1"),
    (r"\bpass (served_entity)=", "name one as ENTITY"),
    # what is left of the arguments' names
    *((rf"(?<![\w?&]){name}=(?=[\w'\"])", f"{option} ") for name, option in OPTIONS.items()),
    *((rf"(?<![\w?&]){name}=", option) for name, option in (OPTIONS | VARIABLES).items()),
    *((rf"(?<![\w-]){name}\b(?!=)", option) for name, option in NAMED.items()),
    (r"\bthe argument (--[\w-]+)", r"\1"),
)
_RULES = [(re.compile(pattern), words) for pattern, words in _TABLE]


def in_terminal_words(text: str) -> str:
    """What the SDK says, with a command's options and commands in place of Python's arguments and methods."""
    for pattern, words in _RULES:
        text = pattern.sub(words, text)
    return text


_LIMITS = {"greater_than_equal": ("ge", "{:g} or more"), "less_than_equal": ("le", "{:g} or less")}
_KINDS = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "bool_parsing": "yes or no",
}


def option_problem(error: BaseException) -> str:
    """What is wrong with an option's value, or "" where the parser of options has said it.

    Newer versions of typer have pydantic read the values, and pass on its words. They keep its error as the cause.
    """
    problems: Callable[[], list[Mapping[str, Any]]] | None = getattr(error.__cause__, "errors", None)
    if problems is None:
        return ""
    problem = problems()[0]
    kind, given = problem["type"], problem.get("input")
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return f"it must be {words.format(problem['ctx'][name])}, got {given}."
    if kind in _KINDS:
        return f"it must be {_KINDS[kind]}, got {given!r}."
    return str(problem["msg"]).removeprefix("Value error, ")
