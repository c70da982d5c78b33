"""What a terminal is told: no word of Python's where a command has one, for every sentence that the SDK can say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import dbllm
from dbllm.cli.words import CONNECT_SECONDS, in_terminal_words

PACKAGE = Path(dbllm.__file__).parent
CORE = (
    "bulk",
    "_auth",
    "_client.py",
    "_http",
    "_inference",
    "_management",
    "_protocol",
    "_transport",
    "_urls.py",
    "errors.py",
)
SKIPPED = ("display.py", "hooks.py", "report.py", "row_mapper.py", "row_stream.py")  # HTML, and what no command calls
PYTHON = re.compile(
    r"(?<![\w?&/.\"{-])[a-z]\w+=(?![\w{]*[&;])|\b[a-z]\w+\(\)|\b(Timeout|Retry|Limits|Hooks)\(|\bclient\.\w|\bNone\b"
    r"|\ba (str|dict|list of dict|bool)\b|\berror\.\w+|\bkeyword\b"
)
UNREACHED = re.compile(  # by a command: it does not pass the argument, or reads no such attribute
    r"served_model=|response_model=|response_format=|media_type=|transform_(in|out)put|engine=|http_client="
    r"|verify= must|cert= |verify='system' needs|fallback|progress takes|params must|audio\(\)|as_numpy|as_pandas"
    r"|Hooks|strict|middleware|hedge|retry must|extra_body must|\bid must|\bid=|events\(\)|result\(\)|get_bytes"
    r"|a Message|predict\(\) takes|embed\(\) (takes|needs)|to_frame|toPandas|reset_index|JSON has no form|as float\(\)"
    r"|tool is a dict|trust_env="
    r"|stop must|respond\(\) has no stop|complete\(\) takes one|takes a str, a message|tags must|no text but"
    r"|a function that returns one|a secret must|limits must|Limits\(\w|adaptive\"|batch|tags: pass"
    r"|final\(\)|needs an extra|with_options|token= and host=|client\.request|its value must|async, and|needs a prompt"
    r"|inputs=|stream_|update_mask=\[|^await |^Check that the host is right and|request_id=|`dbllm up|task=5 is"
    r"|local\(\)|model_dump"
)


def sentences() -> Iterator[tuple[str, str]]:
    """The texts of the core that are no docstrings, with a word in place of what an f-string puts in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE)
        if name.parts[0] in CORE and name.name not in SKIPPED:
            yield from ((f"{name}:{line}", text) for line, text in texts_of(ast.parse(path.read_text("utf-8"))))


def texts_of(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    elif isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "5" for part in node.values)
        yield node.lineno, "".join(map(str, parts))
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts_of(child)


def test_no_sentence_of_the_sdk_speaks_python_to_a_terminal() -> None:
    wrong = []
    for place, text in sentences():
        if " " not in text or "(self" in text or UNREACHED.search(text):
            continue
        shown = in_terminal_words(text)
        if found := PYTHON.search(shown):
            wrong.append((place, found[0], shown))
    assert wrong == []


def test_what_the_sdk_says_is_said_in_the_terminal_s_words() -> None:
    dial, late = "no connection to http://h:1 within {:g} s. Check it", "; Timeout(connect=…) allows more time."
    for said, shown in (
        (dial.format(0.5) + late, dial.format(0.5) + "; a longer --timeout allows more time."),
        (dial.format(CONNECT_SECONDS) + late, dial.format(CONNECT_SECONDS) + "."),  # --timeout would allow none
        ("not done within timeout=5.0 s", "not done within --timeout 5.0 s"),
        ("Timeout: total must be above 0 or None (no limit).", "--timeout must be above 0."),
        ("pass host=, set DATABRICKS_HOST, or", "pass --host, set DATABRICKS_HOST, or"),
        ("pass cluster_id=, or set it", "pass --cluster-id, or set it"),
        ("Pass token=, set DATABRICKS_TOKEN together", "Set DATABRICKS_TOKEN together"),
        ("auth_type= or DATABRICKS_AUTH_TYPE chooses another", "DATABRICKS_AUTH_TYPE chooses another"),
        ("check proxy= or HTTPS_PROXY", "check HTTPS_PROXY"),
        ("a name, a str that is not empty, got ''.", "a name that is not empty, got ''."),
        ("no chat(): use embed() or respond().", "no `dbllm chat`: use `dbllm embed` or `dbllm respond`."),
        ("use client.agent('mine').", "use `dbllm respond apps/mine`."),
        ("Limits: requests_per_minute must be above 0, or None.", "--rpm must be above 0."),
        ("n=2: use chat(..., n=2).", "n=2: use `dbllm chat --json --param n=2`."),
        ("chat() has no maxtokens=: use max_tokens=.", "`dbllm chat` has no parameter maxtokens: use --max-tokens."),
        ("chat() has no topp=: use top_p=.", "`dbllm chat` has no parameter topp: use --param top_p."),
        (
            "'retries' would go to the model. For dbllm's own option use retry=Retry(attempts=…).",
            "'retries' is no parameter of a model; see --help.",
        ),
        ("https://x/?timeout=5&host=a my_timeout=3", "https://x/?timeout=5&host=a my_timeout=3"),
    ):  # fmt: skip
        assert in_terminal_words(said) == shown


def test_the_limit_of_one_connection_is_the_client_s() -> None:
    assert dbllm.Timeout().connect == CONNECT_SECONDS
