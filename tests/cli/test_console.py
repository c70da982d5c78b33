"""What the commands share: text that is read, the client that they get, and usage errors that say what to write."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import respx

from dbllm.cli.console import decode_text, join_surrogates
from dbllm.cli.words import in_terminal_words

API = "https://workspace.example.com"
NEW_TYPER = find_spec("typer._coercion") is not None  # it has pydantic read options, and passes on its words
CHAT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}}]}
RESPONSE = {
    "object": "response",
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]}],
}
MARKED = [  # what Windows' shells and editors put before or around a text
    lambda text: codecs.BOM_UTF8 + text.encode(),
    lambda text: codecs.BOM_UTF8 * 2 + text.encode(),
    lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    lambda text: codecs.BOM_UTF32_BE + text.encode("utf-32-be"),
]

pytestmark = pytest.mark.usefixtures("configured")


@pytest.fixture
def configured(no_workspace: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", API)
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-test")


@pytest.fixture
def rest() -> Iterator[respx.MockRouter]:
    with respx.mock(base_url=API, assert_all_called=False) as router:
        router.post("/api/2.0/secrets/put").respond(json={})
        router.post("/api/2.0/serving-endpoints").respond(json={"name": "e"})
        router.put("/api/2.0/serving-endpoints/e/rate-limits").respond(json={"rate_limits": []})
        router.get("/api/2.0/serving-endpoints/custom").respond(json={"name": "custom"})
        router.post("/serving-endpoints/chat/invocations").respond(json=CHAT)
        router.post("/serving-endpoints/custom/invocations").respond(json={"predictions": ["Hello"]})
        router.post("/serving-endpoints/agent/invocations").respond(json=RESPONSE)
        data = [{"index": number, "embedding": [0.5]} for number in (0, 1)]
        router.post("/serving-endpoints/embed/invocations").respond(json={"data": data})
        yield router


def sent(rest: respx.MockRouter) -> Any:
    return json.loads(rest.calls[-1].request.content)


OBJECT = '{"inputs": ["gr\u00fc\u00df"]}'
CONFIG = '{"served_entities": [{"name": "\u00e9"}]}'
READERS: dict[tuple[str, ...], tuple[str, Callable[[Any], Any], Any]] = {  # a command: stdin, what of the request, is
    ("secrets", "put-secret", "s", "k"): ("sk-\u00e4bc\r\n", lambda body: body["string_value"], "sk-\u00e4bc"),
    ("chat", "chat", "-", "--no-stream"): ("h\u00e9llo\r\n", lambda body: body["messages"][0]["content"], "h\u00e9llo"),
    ("complete", "custom", "-"): ("h\u00e9llo\n", lambda body: body["dataframe_records"][0]["prompt"], "h\u00e9llo"),
    ("embed", "embed"): ("\u00e9ins\r\nzwei\r\n", lambda body: body["input"], ["\u00e9ins", "zwei"]),
    ("predict", "custom"): (OBJECT, lambda body: body, json.loads(OBJECT)),
    ("predict", "custom", "@FILE"): (OBJECT, lambda body: body, json.loads(OBJECT)),
    ("endpoints", "create", "e", "-"): (CONFIG, lambda body: body["config"], json.loads(CONFIG)),
    ("endpoints", "create", "e", "@FILE"): (CONFIG, lambda body: body["config"], json.loads(CONFIG)),
    ("endpoints", "rate-limits", "e", "-"): ('{"rate_limits": []}', lambda body: body, {"rate_limits": []}),
}


class TestTextThatIsRead:
    def test_a_byte_order_mark_is_no_part_of_it_for_any_command(
        self, run: Any, rest: respx.MockRouter, tmp_path: Path
    ) -> None:
        wrong = []
        for words, (text, part, expected) in READERS.items():
            for mark in [str.encode, *MARKED]:
                data = mark(text)
                (tmp_path / "file").write_bytes(data)
                stdin = b"" if "@FILE" in words else data
                ended = run(*(word.replace("FILE", str(tmp_path / "file")) for word in words), stdin=stdin)
                if ended.status or part(sent(rest)) != expected:
                    wrong.append((words, data, ended))
        assert not wrong

    def test_what_is_no_text_is_refused_in_a_line_that_does_not_show_it(
        self, run: Any, rest: respx.MockRouter, tmp_path: Path
    ) -> None:
        unreadable = [b"secret-\xff", b"\xff\xfes\x00\x00", "secret".encode("utf-16-le"), "secret".encode("utf-16-be")]
        empty = [b"", b"\n", b"\r\n", codecs.BOM_UTF8, codecs.BOM_UTF8 + b"\r\n", codecs.BOM_UTF16_LE]
        wrong = []
        for words in READERS:
            for data in [*unreadable, *empty]:
                (tmp_path / "file").write_bytes(data)
                stdin = b"" if "@FILE" in words else data
                ended = run(*(word.replace("FILE", str(tmp_path / "file")) for word in words), stdin=stdin)
                if (ended.status, ended.out, ended.err.count("\n")) != (1, "", 1) or "secret" in ended.err:
                    wrong.append((words, data, ended))
        assert not wrong
        assert not [call for call in rest.calls if call.request.method != "GET"]

    def test_a_pipe_follows_the_text_that_was_given(self, run: Any, rest: respx.MockRouter) -> None:
        both = "Repeat:\n\none\n\ntwo"
        for words, part, expected in (
            (("chat", "chat", "Repeat:", "--no-stream"), lambda body: body["messages"][0]["content"], both),
            (("chat", "chat", "", "--no-stream"), lambda body: body["messages"][0]["content"], "one\n\ntwo"),
            (("complete", "custom", "Repeat:"), lambda body: body["dataframe_records"][0]["prompt"], both),
            (("respond", "agent", "Repeat:", "--no-stream"), lambda body: body["input"][0]["content"], both),
            (("respond", "agent", "--no-stream"), lambda body: body["input"][0]["content"], "one\n\ntwo"),
            (("embed", "embed", "Repeat:"), lambda body: body["input"], ["Repeat:", "one"]),
        ):
            ended = run(*words, stdin=b"one\n" if "embed" in words else b"one\n\ntwo\n")
            assert ended.status == 0, (words, ended)
            assert part(sent(rest)) == expected, words

    def test_a_pipe_that_cannot_count_is_refused(self, run: Any, rest: respx.MockRouter) -> None:
        for words, stdin, said in (
            (("predict", "custom", OBJECT), b"{}", "BODY was given and text was piped in"),
            (("chat", "chat", "Repeat:"), b"\xff", "no text in utf-8"),
            (("chat", "chat", ""), b"", "MESSAGE is empty, and nothing was sent"),
            (("complete", "custom", ""), b"\n", "PROMPT is empty, and nothing was sent"),
            (("respond", "agent", ""), b"", "MESSAGE is empty, and nothing was sent"),
        ):
            ended = run(*words, stdin=stdin)
            assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1), (words, ended)
            assert said in ended.err
        assert not [call for call in rest.calls if call.request.method != "GET"]
        assert run("predict", "custom", OBJECT).status == 0  # nothing is piped in

    def test_a_mark_inside_a_text_stays(self) -> None:
        assert decode_text(b"a\xef\xbb\xbfb", "it") == "a\ufeffb"

    def test_a_json_object_is_wanted_and_the_error_says_what_to_write(self, run: Any, tmp_path: Path) -> None:
        for words, said in (
            ("{", "is not JSON"),
            ("{'inputs': 1}", "in quotes"),
            ("body.json", "@FILE"),
            ("@body.json", "body.json cannot be read: No such file"),
            (f"@{tmp_path}", "Is a directory"),
            ("1", "an object is needed"),
            ("[" * 100_000, "JSON"),
        ):
            ended = run("predict", "custom", words)
            assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
            assert said in ended.err


class TestWhatTheyShare:
    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Every command that calls a workspace, with its options."""
        from typer.main import get_command

        from dbllm.cli.main import app

        def walk(group: Any, path: str) -> Iterator[tuple[str, Any]]:
            for name, command in group.commands.items():
                yield from (
                    walk(command, f"{path} {name}") if hasattr(command, "commands") else [(f"{path} {name}", command)]
                )

        for path, command in walk(get_command(app), ""):
            if path.split()[0] not in ("demo", "up", "env", "serve", "doctor"):
                yield path, [option for parameter in command.params for option in parameter.opts]

    def test_every_command_that_calls_takes_the_same_three_options_and_no_token(self) -> None:
        found = dict(self.commands())
        assert len(found) == 36
        for path, options in found.items():
            assert {"--host", "--profile", "--timeout"} <= set(options), path
            assert options.count("--timeout") == 1, path
            assert "--token" not in options, path

    def test_wrong_usage_comes_before_a_configuration_that_is_missing(
        self, run: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("DATABRICKS_HOST")
        for words in (
            ("complete", "dolly", "hi", "--app", "7777"),
            ("complete", "dolly", "hi", "--param", "stop=x"),
            ("chat", "dolly", "hi", "--max-tokens", "0"),
            ("endpoints", "tags", "e", "--add", "team"),
            ("endpoints", "permissions", "e", "--user", "bob"),
            ("up", "--upstream", "openai="),
            ("up", "--custom", "=x"),
        ):
            assert run(*words).status == 2, words
        assert run("endpoints", "list").status == 1

    def test_a_usage_error_says_what_to_write(self, run: Any) -> None:
        for words, said in (
            (("complete", "dolly", "How", "are", "you?"), "A text with spaces needs quotes."),
            (("chat", "any", "hi", "--top-p", "5"), "--param top_p=VALUE"),
            (("chat", "any", "hi", "--profil", "x"), "--profile"),
            (("endpoint", "list"), "endpoints"),
            (("up", "smollm2"), "extra argument(s) (smollm2). It takes options alone."),
            (("endpoints", "get", "a", "b"), "It takes NAME and options."),
            (("run", "smollm2"), "No such command 'run'. Use `dbllm up`"),
            (("endpoints", "show", "e"), "Use `dbllm endpoints get`."),
            (("secrets", "put"), "Use `dbllm secrets put-secret SCOPE KEY`."),
            (
                ("chat", "any", "hi", "--model", "x"),
                "No such option: --model. The endpoint's name is the first argument.",
            ),
            (("predict", "any", "[]", "--model", "x"), "The endpoint's name is the first argument."),
            (("endpoints", "list", "--base-url", "x"), "The workspace is --host."),
            (("nothing",), "There are: demo, up, env, serve, bulk, doctor, complete, chat, respond, embed"),
            (("endpoints", "nothing"), "There are: list, get, create"),
            (("up", "--port", "99999"), "65535"),
            (("up", "--port", "x"), "whole number" if NEW_TYPER else "valid integer"),
            (("up", "--deploy-seconds", "-1"), "0 or more, got -1" if NEW_TYPER else "0"),
            (("env", "--shell", "xx"), "'xx' is not one of 'sh', 'fish'"),
            (("chat", "any", "hi", "--temperature", "hot"), "a number, got 'hot'" if NEW_TYPER else "valid float"),
            (("chat", "any", "hi", "--tag", "x"), "name=value"),
            (("complete", "hi", "--app", "7777", "--tag", "x=y"), "takes no tags"),
        ):
            ended = run(*words)
            assert ended.status == 2
            shown = " ".join(ended.err.replace("│", " ").split())
            assert said in shown, (words, shown)
            assert not re.search(r"Input should|Value error|pydantic|parse string", shown), shown
        assert "--param" not in run("endpoints", "list", "--max-tokens", "5").err

    def test_a_workspace_that_is_not_reached_names_the_command_that_finds_out_why(
        self, run: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:1")
        ended = run("secrets", "list-scopes", "--timeout", "1")
        assert (ended.status, ended.err.count("\n")) == (1, 1)
        assert "`dbllm doctor`" in ended.err

    def test_the_version_is_the_package_s(self, run: Any) -> None:
        from importlib.metadata import version

        assert run("--version").out == f"dbllm {version('dbllm')}\n"


def test_halves_of_a_pair_become_one_character() -> None:
    assert join_surrogates("a\ud83d\ude00b\ud83d") == "a\U0001f600b\ud83d"
    assert join_surrogates("\ufeffa\ud83d", lone="replace") == "\ufeffa\ufffd"


def test_mistakes_are_answered_in_words_of_the_terminal() -> None:
    """What the SDK says of the same mistakes, as `tests/mistakes.md` has it, without a word of Python."""
    text = (Path(__file__).parents[1] / "mistakes.md").read_text("utf-8")
    texts = dict(re.findall(r"^## (.+)\n\n\w+: (.+)\n", text, re.M))
    causes = [
        "nothing is configured",
        "a host without a token",
        "there is no credential",
        "timeout= is negative",
        "timeout= is text",
        "host= has the path of the REST API",
        "host= is an endpoint's own URL",
        "an endpoint's name with a space in it",
        "an endpoint's name with a space at its end",
        "the name of an app of Databricks Apps",
        "no answer in time",
        "a profile without a host",
        "a driver app without a cluster",
        "chat() of an endpoint that embeds",
        "nobody listens",
    ]
    python = re.compile(
        r"\b(token|host|timeout|profile|cluster_id)=(?!\w)|the argument |client\.endpoint|Timeout: total"
    )
    assert [shown for cause in causes if python.search(shown := in_terminal_words(texts[cause]))] == []
