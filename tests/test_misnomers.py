"""The words for what users of other libraries type: their file, when it is read, and that they name what is there."""

from __future__ import annotations

import configparser
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dbllm
from dbllm import _misnomers
from dbllm._protocol.models import ChunkChoice

FILE = Path(dbllm.__file__).with_name("_misnomers.ini")
MODELS: tuple[Any, ...] = (dbllm.ChatCompletion, dbllm.Completion, dbllm.Embeddings, dbllm.Predictions, dbllm.Response)
OWNERS: dict[str, tuple[Any, ...]] = {
    "client": (dbllm.AsyncClient, dbllm.Client),
    "endpoint": (dbllm.AsyncEndpoint, dbllm.Endpoint),
    "app": (dbllm.AsyncDriverApp, dbllm.DriverApp),
    "agent": (dbllm.AsyncAgent, dbllm.Agent),
    "stream": (dbllm.AsyncStream, dbllm.Stream),
    "run": (dbllm.AsyncRun, dbllm.Run),
    "area": (dbllm.AsyncEndpoints, dbllm.Endpoints, dbllm.AsyncSecrets, dbllm.Secrets, dbllm.AsyncModelServices),
    "reply": (*MODELS, dbllm.Message, dbllm.Usage, dbllm.ChatCompletionChunk, ChunkChoice),
    "error": (dbllm.APIError, dbllm.Raw),
}
VERBS = ("chat", "complete", "generate", "respond", "embed", "predict")
STREAMS = ("stream_chat", "stream_complete", "stream_respond")


def parsed() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read_string(FILE.read_text("utf-8"))
    return parser


def has(kind: Any, name: str) -> bool:
    own = ("raw", "status", "error_code") if kind is dbllm.APIError else getattr(kind, "model_fields", ())
    return hasattr(kind, name) or name in own


def test_no_name_stands_twice_in_a_section() -> None:
    for section, lines in parsed().items():
        names = [name for names in lines for name in names.split(", ")]
        assert sorted(names) == sorted(set(names)), section
        assert all(name == name.strip() and name for name in names), section


def test_a_name_that_there_is_needs_no_other() -> None:
    wrong = []
    for section, kinds in OWNERS.items():
        for name in _misnomers.words(section).keys() - {"()", "awaited"}:
            if all(has(kind, name) for kind in kinds):
                wrong.append(f"[{section}] {name}")
    assert not wrong


def test_what_is_advised_is_there() -> None:
    wrong = []
    for section, kinds in OWNERS.items():
        for name, advice in _misnomers.words(section).items():
            for other in advice.split(" | "):
                first = re.match(r"(\w+)(?=[(,]|$)", other)  # an attribute of its own
                if first and not any(has(kind, first[1]) for kind in kinds) and first[1] not in ("a", "repr", "get"):
                    wrong.append(f"[{section}] {name} = {other}")
    for section in parsed().sections():
        for name, advice in _misnomers.words(section).items():
            for found in re.findall(r"\bclient\.(\w+)", advice.replace("await client", "client")):
                if not hasattr(dbllm.Client, found) and not hasattr(dbllm.AsyncClient, found):
                    wrong.append(f"[{section}] {name}: client.{found}")
            for found in re.findall(r"client\.endpoint\(NAME\)\.(\w+)", advice):
                if not hasattr(dbllm.Endpoint, found):
                    wrong.append(f"[{section}] {name}: endpoint.{found}")
            for found in re.findall(r"client\.endpoints\.(\w+)", advice):
                if not hasattr(dbllm.Endpoints, found):
                    wrong.append(f"[{section}] {name}: endpoints.{found}")
    assert not wrong


def test_every_section_is_read_somewhere() -> None:
    code = "".join(path.read_text("utf-8") for path in FILE.parent.rglob("*.py"))
    read = {*re.findall(r'"([\w ]+)"', code), "plain stream", "app", "agent"}
    read |= {f"call {verb}" for verb in VERBS} | {"keyword Retry", "keyword request()", "keyword predict()"}
    read |= {f"keyword {name}" for name in ("rows()", "run()", "RowMapper", "instrument()", "spark")}
    read |= {f"module dbllm{name}" for name in ("", ".bulk", ".langchain", ".testing", ".local", ".otel", ".spark")}
    read |= {"set client", "set endpoint"}
    assert set(parsed().sections()) <= read


def test_a_verb_is_a_coroutine_function_whose_signature_has_no_default_for_what_it_needs() -> None:
    for kind in (dbllm.AsyncEndpoint, dbllm.AsyncDriverApp, dbllm.AsyncAgent):
        for name in (*VERBS, *STREAMS, "start"):
            if (verb := getattr(kind, name, None)) is None:
                continue
            assert inspect.iscoroutinefunction(verb) == (name not in STREAMS), name
            first = [*inspect.signature(verb).parameters.values()][1]
            assert (first.default is inspect.Parameter.empty) == (name != "predict"), name


PROGRAM = """
import sys
import httpx
import dbllm

def answer(request):
    if request.url.path.endswith("/vectors/invocations"):
        return httpx.Response(200, json={"data": [{"index": 0, "embedding": [0.5]}]})
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    return httpx.Response(200, json={"choices": [choice]})

with dbllm.Client("https://w.example.com", "dapi0", transport=httpx.MockTransport(answer)) as client:
    before = set(sys.modules)
    reply = client.endpoint("chat").chat("hi", temperature=0.1, max_tokens=5, tools=[], top_p=1)
    assert reply.text == client.endpoint("chat", task="chat").complete("hi", max_tokens=5, seed=1) == "hi"
    assert [*client.endpoint("vectors").embed(["hi"], dimensions=1)] == [[0.5]]
    assert reply and client.endpoint("chat").name == "chat"
print(*sorted(set(sys.modules) - before))
from dbllm import bulk
from dbllm import _misnomers
from dbllm._protocol.models import ChunkChoice
print(_misnomers.words.cache_info().misses)
"""


def test_a_program_without_a_mistake_reads_no_words() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    loaded, misses = ran.stdout.splitlines()
    assert not {"difflib", "configparser", "dbllm._protocol.keywords", "dbllm._protocol.misuse"} & {*loaded.split()}
    assert misses == "0"


def test_without_the_file_an_error_is_still_raised_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_data(*_: str) -> bytes:
        raise FileNotFoundError("_misnomers.ini")

    _misnomers.words.cache_clear()
    monkeypatch.setattr("pkgutil.get_data", no_data)
    try:
        with pytest.raises(AttributeError, match="Usage has no attribute 'input_tokens': it has prompt_tokens"):
            dbllm.Usage().input_tokens  # type: ignore[attr-defined]  # noqa: B018
    finally:
        _misnomers.words.cache_clear()


async def test_no_client_and_no_handle_looks_as_if_it_could_be_awaited(make):
    """Frameworks await what says so, and hand on clients that a user's function made."""
    async with make("https://ws") as client:
        own = getattr(client, "plain", client)
        things = [own, own.endpoint("m"), own.driver_app(7777, "c"), own.agent("a"), own.endpoints, own.secrets]
        assert [thing for thing in things if inspect.isawaitable(thing)] == []
