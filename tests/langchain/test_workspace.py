"""Where a LangChain object finds its workspace, and what becomes of credentials."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import sys
import threading
import types
from typing import Any

import httpx
import pytest
from langchain_core.load import dumpd, dumps
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.tracers import BaseTracer
from pydantic import SecretStr, ValidationError
from recorded import HOST, Recorded

import dbllm
from dbllm import AsyncClient, Client, ConfigError, RateLimitError
from dbllm.langchain import ChatDatabricks, Databricks, DatabricksEmbeddings, get_default_host, get_repl_context

SECRET = "dapi-very-secret"
CLASSES: list[tuple[type[Any], dict[str, Any]]] = [
    (Databricks, {"endpoint_name": "ep"}),
    (ChatDatabricks, {"model": "ep"}),
    (DatabricksEmbeddings, {"endpoint": "ep"}),
]
each_class = pytest.mark.parametrize(("kind", "fields"), CLASSES, ids=lambda value: getattr(value, "__name__", ""))


class Sent:
    """Stands in for the network under dbllm's clients: keeps the requests, and answers everything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[httpx.Request] = []
        for name in ("Client", "AsyncClient"):
            kind = getattr(dbllm, name)
            monkeypatch.setattr(dbllm, name, self._over(kind))

    def _over(self, kind: type[Any]) -> Any:
        return lambda *given, **options: kind(*given, **options, transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        message = {"role": "assistant", "content": "Good"}
        data = [{"index": 0, "embedding": [1.0, 2.0]}]
        return httpx.Response(200, json={"choices": [{"message": message}], "data": data, "predictions": ["Good"]})

    def last(self) -> tuple[str, str]:
        """(host, authorization) of the last request."""
        return str(self.requests[-1].url.copy_with(path="/"))[:-1], self.requests[-1].headers["authorization"]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    return Sent(monkeypatch)


def call(made: Any) -> Any:
    return made.embed_query("hi") if isinstance(made, DatabricksEmbeddings) else made.invoke("hi")


async def acall(made: Any) -> Any:
    return await (made.aembed_query("hi") if isinstance(made, DatabricksEmbeddings) else made.ainvoke("hi"))


# --- where it goes ----------------------------------------------------------------------------------------------------


@each_class
def test_host_and_token_as_given(kind: Any, fields: dict[str, Any], sent: Sent) -> None:
    call(kind(host="myworkspace.cloud.databricks.com", api_token=SECRET, **fields))
    assert sent.last() == ("https://myworkspace.cloud.databricks.com", f"Bearer {SECRET}")


@each_class
@pytest.mark.parametrize("name", ["api_token", "api_key", "token"])
def test_all_names_of_the_token(kind: Any, fields: dict[str, Any], name: str, sent: Sent) -> None:
    call(kind(host=HOST, **{name: SecretStr(SECRET)}, **fields))
    assert sent.last() == (HOST, f"Bearer {SECRET}")


@each_class
def test_host_and_token_of_the_environment(
    kind: Any, fields: dict[str, Any], sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", HOST)
    monkeypatch.setenv("DATABRICKS_TOKEN", SECRET)
    made = kind(**fields)
    assert (made.host, made.api_token.get_secret_value()) == (HOST, SECRET)
    call(made)
    assert sent.last() == (HOST, f"Bearer {SECRET}")


def test_the_environment_s_token_goes_to_the_environment_s_host_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", HOST)
    monkeypatch.setenv("DATABRICKS_TOKEN", SECRET)
    llm = Databricks(host="https://other.example.com", endpoint_name="ep")
    assert llm.api_token is None
    with pytest.raises(ConfigError, match="no credentials"):
        llm.invoke("hi")


def test_the_token_that_was_set_alone_goes_to_the_host_the_notebook_names(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", SECRET)
    Databricks(host="myworkspace.cloud.databricks.com", endpoint_name="ep").invoke("hi")
    assert sent.last() == ("https://myworkspace.cloud.databricks.com", f"Bearer {SECRET}")


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context of a notebook that is attached to a cluster, as Databricks' runtime has it."""
    context = types.SimpleNamespace(
        browserHostName="notebook.example.com",
        workspaceUrl="notebook.example.com",
        apiToken="dapi-notebook",
        clusterId="0123-456789-notebook",
        orgId="0",
    )
    room = types.ModuleType("dbruntime.databricks_repl_context")
    room.get_context = lambda: context  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dbruntime", types.ModuleType("dbruntime"))
    monkeypatch.setitem(sys.modules, "dbruntime.databricks_repl_context", room)
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "15.4")


@pytest.mark.usefixtures("notebook")
def test_in_a_notebook_the_port_is_enough(sent: Sent) -> None:
    llm = Databricks(cluster_driver_port="7777", model_kwargs={"temperature": 0.1}, transform_output_fn=str)
    llm("How are you?")
    assert sent.last() == ("https://notebook.example.com", "Bearer dapi-notebook")
    assert sent.requests[-1].url.path == "/driver-proxy-api/o/0/0123-456789-notebook/7777"
    assert get_default_host() == "notebook.example.com"


def test_outside_a_notebook_there_is_no_context() -> None:
    with pytest.raises(ImportError, match="notebook"):
        get_repl_context()


@each_class
def test_a_profile_by_its_uri(
    kind: Any, fields: dict[str, Any], sent: Sent, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[work]\nhost = {HOST}\ntoken = {SECRET}\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "config"))
    uri = "databricks_uri" if kind is Databricks else "target_uri"
    for where in ({uri: "databricks://work"}, {"config_profile": "work"}):
        call(kind(**where, **fields))
        assert sent.last() == (HOST, f"Bearer {SECRET}")


async def test_a_token_function_is_asked_off_the_loop(sent: Sent) -> None:
    threads: list[threading.Thread] = []

    def token() -> str:
        threads.append(threading.current_thread())
        return SECRET

    async def later() -> str:
        return SECRET

    await ChatDatabricks(model="ep", host=HOST, api_token=token).ainvoke("hi")
    assert sent.last() == (HOST, f"Bearer {SECRET}")
    assert threads[0] is not threading.main_thread()
    await ChatDatabricks(model="ep", host=HOST, api_token=later).ainvoke("hi")
    assert sent.last() == (HOST, f"Bearer {SECRET}")


@each_class
async def test_the_official_sdk_s_client_lends_its_login(kind: Any, fields: dict[str, Any], sent: Sent) -> None:
    config = types.SimpleNamespace(host=HOST, authenticate=lambda: {"Authorization": f"Bearer {SECRET}"})
    made = kind(workspace_client=types.SimpleNamespace(config=config), **fields)
    call(made)
    assert sent.last() == (HOST, f"Bearer {SECRET}")
    await acall(made)
    assert sent.last() == (HOST, f"Bearer {SECRET}")


@each_class
def test_making_one_connects_to_nothing_and_reads_no_file(
    kind: Any, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(event: str, _: Any) -> None:
        if watching and event in ("open", "socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
            events.append(event)

    events: list[str] = []
    watching = False
    sys.addaudithook(forbidden)
    kind(**fields)  # what is imported at the first use
    watching = True
    kind(host=HOST, api_token=SECRET, **fields)
    kind(**fields)
    watching = False
    assert events == []


@each_class
def test_without_a_workspace_the_first_call_says_what_to_set(kind: Any, fields: dict[str, Any]) -> None:
    made = kind(**fields)
    with pytest.raises(ConfigError, match="DATABRICKS_HOST"):
        call(made)


# --- clients ----------------------------------------------------------------------------------------------------------


@each_class
def test_a_client_of_one_s_own_is_used_and_stays_open(kind: Any, fields: dict[str, Any]) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(429, json={"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow"})

    transport = httpx.MockTransport(answer)
    with Client(HOST, SECRET, transport=transport) as client:
        made = kind(client=client, max_retries=0, timeout=5, **fields)
        for _ in range(2):
            with pytest.raises(RateLimitError):
                call(made)
            made.close()
        assert client.host == HOST
    assert len(asked) >= 2


@each_class
async def test_retries_are_counted_once(kind: Any, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        headers = {"retry-after": "0"}
        return httpx.Response(503, headers=headers, json={"error_code": "TEMPORARILY_UNAVAILABLE", "message": "x"})

    given = {"task": "custom"} if kind is Databricks else {}
    made = kind(
        async_client=AsyncClient(HOST, SECRET, transport=httpx.MockTransport(answer)), max_retries=1, **given, **fields
    )
    with pytest.raises(dbllm.InternalServerError):
        await acall(made)
    assert len(asked) == 2


@each_class
def test_a_field_that_is_set_later_is_heeded(kind: Any, fields: dict[str, Any], sent: Sent) -> None:
    made = kind(host=HOST, api_token=SECRET, **fields)
    call(made)
    made.host = "https://other.example.com"
    call(made)
    assert sent.last() == ("https://other.example.com", f"Bearer {SECRET}")
    call(made.model_copy(update={"host": "https://third.example.com"}))
    assert sent.last() == ("https://third.example.com", f"Bearer {SECRET}")


@pytest.mark.parametrize("kind", ["chat", "llm", "embeddings"])
def test_one_object_serves_several_event_loops_one_after_another(ambient: Any, kind: str) -> None:
    made: Any = {
        "chat": lambda: ChatDatabricks(model="smollm2-chat", max_tokens=2),
        "llm": lambda: Databricks(endpoint_name="dolly", max_tokens=2),
        "embeddings": lambda: DatabricksEmbeddings(endpoint="databricks-bge-large-en"),
    }[kind]()

    async def several() -> None:
        await asyncio.gather(*(acall(made) for _ in range(3)))

    for _ in range(3):
        asyncio.run(several())
    assert call(made)
    asyncio.run(made.aclose())
    assert call(made)
    made.close()
    gc.collect()


# --- secrets ----------------------------------------------------------------------------------------------------------


class Trace(BaseTracer):
    """Keeps what a tracer would send away."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[str] = []

    def _persist_run(self, run: Any) -> None:
        self.runs.append(str(run.model_dump() if hasattr(run, "model_dump") else run.dict()) + repr(run))


@each_class
def test_a_token_is_nowhere_but_in_the_request(
    kind: Any, fields: dict[str, Any], sent: Sent, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    made = kind(host=HOST, api_token=SECRET, **fields)
    tracer = Trace()
    if isinstance(made, DatabricksEmbeddings):
        made.embed_query("hi")
    else:
        made.invoke("hi", {"callbacks": [tracer]})
        assert tracer.runs
    assert sent.last()[1].endswith(SECRET)
    shown = [repr(made), str(made), dumps(made), str(dumpd(made)), str(made.model_dump()), made.model_dump_json()]
    shown += [*tracer.runs, caplog.text, str(capsys.readouterr()), str(vars(made)), str(made._made.clients)]
    assert not [text for text in shown if SECRET in text]
    assert SECRET.encode() not in pickle.dumps(made)


@each_class
@pytest.mark.parametrize("used", [False, True], ids=["before use", "after use"])
def test_a_pickle_leaves_the_token_behind_and_says_so(
    kind: Any, fields: dict[str, Any], used: bool, sent: Sent
) -> None:
    made = kind(host=HOST, api_token=SECRET, **fields)
    if used:
        call(made)
    loaded = pickle.loads(pickle.dumps(made))
    assert loaded.host == HOST
    assert loaded.api_token is None
    with pytest.raises(ConfigError, match="pickled without its api_token"):
        call(loaded)
    again = pickle.loads(pickle.dumps(loaded))
    with pytest.raises(ConfigError, match="pickled without its api_token"):
        call(again)
    loaded.api_token = SecretStr("dapi-new")
    call(loaded)
    assert sent.last() == (HOST, "Bearer dapi-new")


@each_class
def test_after_loading_the_ambient_configuration_serves(
    kind: Any, fields: dict[str, Any], sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = pickle.dumps(kind(api_token=SECRET, **fields))
    monkeypatch.setenv("DATABRICKS_HOST", HOST)
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-ambient")
    loaded = pickle.loads(saved)
    assert loaded.host == HOST
    call(loaded)
    assert sent.last() == (HOST, "Bearer dapi-ambient")


@each_class
def test_deepcopy_keeps_the_token_and_shares_what_it_was_given(kind: Any, fields: dict[str, Any], sent: Sent) -> None:
    limiter = InMemoryRateLimiter(requests_per_second=1000)
    made = kind(host=HOST, api_token=SECRET, rate_limiter=limiter, **fields)
    call(made)
    copied = copy.deepcopy(made)
    assert copied == made
    assert copied.rate_limiter is limiter
    call(copied)
    assert sent.last() == (HOST, f"Bearer {SECRET}")
    recorded = Recorded().params()
    given = copy.deepcopy(kind(**recorded, **fields))
    assert given.client is recorded["client"]


def test_a_wrong_field_does_not_show_the_token() -> None:
    for kind, fields in CLASSES:
        with pytest.raises(ValidationError) as caught:
            kind(api_token=SECRET, nonsense=1, **fields)
        assert SECRET not in str(caught.value)


@each_class
def test_a_profile_is_not_mixed_with_the_environment(
    kind: Any, fields: dict[str, Any], sent: Sent, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[work]\nhost = {HOST}\ntoken = {SECRET}\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("DATABRICKS_HOST", "https://other.example.com")
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-ambient")
    made = kind(config_profile="work", **fields)
    assert (made.host, made.api_token) == (None, None)
    again = kind(**{name: value for name, value in made.__dict__.items() if name in kind.model_fields})
    for each in (made, again, pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        call(each)
        assert sent.last() == (HOST, f"Bearer {SECRET}")


def test_a_traceback_with_locals_does_not_show_the_token() -> None:
    def shown(error: BaseException) -> str:
        texts, trace = [], error.__traceback__
        while trace is not None:
            if "test_workspace" not in trace.tb_frame.f_code.co_filename:
                texts.append(str(trace.tb_frame.f_locals))
            trace = trace.tb_next
        return "\n".join(texts)

    for kind, fields in CLASSES:
        with pytest.raises(ValidationError) as caught:
            kind(token=SECRET, nonsense=1, **fields)
        assert "nonsense" in shown(caught.value)
        assert SECRET not in shown(caught.value)
        with pytest.raises(ConfigError) as failed:
            call(kind(api_key=SECRET, **fields))
        assert SECRET not in shown(failed.value)


def test_a_field_of_other_classes_is_answered_with_its_name_here() -> None:
    given: list[tuple[type[Any], str, str]] = [
        (ChatDatabricks, "openai_api_key", "Use api_token."),
        (ChatDatabricks, "base_url", "Use host."),
        (ChatDatabricks, "openai_api_base", "Use host."),
        (ChatDatabricks, "model_name", "Use model."),
        (ChatDatabricks, "deployment_name", "Use model."),
        (ChatDatabricks, "request_timeout", "Use timeout."),
        (ChatDatabricks, "temperatur", "Did you mean 'temperature'?"),
        (ChatDatabricks, "top_p", "go into extra_params"),
        (Databricks, "model", "Use endpoint_name."),
        (DatabricksEmbeddings, "openai_api_key", "Use api_token."),
    ]
    fields = dict(CLASSES)
    for kind, name, said in given:
        with pytest.raises(ValidationError) as caught:
            kind(**fields[kind], **{name: SECRET})
        assert said in str(caught.value), (kind, name)
        assert SECRET not in str(caught.value)
