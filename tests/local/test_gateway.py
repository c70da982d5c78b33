"""The gateway between a client and a provider, on sockets; and whole, through the workspace's own upstream."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send
from support.providers import CLAUDE, CLAUDE_CALLS, CLAUDE_STREAM, COMMAND, COMMAND_STREAM, EMBED, Provider

from dbllm.local.gateway.gateway import Gateway
from dbllm.local.gateway.own_upstream import UPSTREAM_PATH, Upstream
from dbllm.local.http.middleware import ErrorMiddleware
from dbllm.local.http.server import WebServer, listen
from dbllm.local.invocation.local_models import LocalModels
from dbllm.local.management.served_entity import Entity, Kind
from dbllm.local.model.embeddings import Vectors

KEY = "sk-canary-0123456789"
SECRETS = {("s", "openai"): KEY, ("s", "line"): f"{KEY}\n", ("s", "odd"): "ключ"}
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}


def external(provider: str, task: str = "llm/v1/chat", name: str = "some-model", **settings: object) -> dict[str, Any]:
    config = {"custom": "custom_provider_config"}.get(provider, f"{provider.replace('-', '_')}_config")
    return {"provider": provider, "name": name, "task": task, config: settings}


class Front:
    """A workspace with nothing in it but the gateway and one endpoint, which a test sets."""

    def __init__(self) -> None:
        self.external: dict[str, Any] = {}
        self._made: list[Gateway] = []
        self.gateway = self.fresh()
        sock = listen("127.0.0.1", 0, hint="")
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        router = Router([Route("/", self)], lifespan=self._lifespan)
        self._server = WebServer(ErrorMiddleware(router), sock)
        self._server.start()
        self.http = httpx.Client(base_url=self.url, timeout=20, trust_env=False)

    def fresh(self, upstreams: dict[str, str] | None = None, **options: float) -> Gateway:
        self.gateway = Gateway(lambda scope, key: SECRETS.get((scope, key)), upstreams, **options)
        self._made.append(self.gateway)
        return self.gateway

    @asynccontextmanager
    async def _lifespan(self, _app: object) -> AsyncIterator[None]:
        yield
        for gateway in self._made:
            await gateway.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        task = self.external["task"]
        entity = Entity("served-1", Kind.EXTERNAL, task, "e", "", "m", {"external_model": self.external})
        gateway = self.gateway
        response = await gateway.call(request, entity, task, await request.body())
        await response(scope, receive, send)

    def ask(self, body: object, **options: object) -> httpx.Response:
        return self.http.post("/", json=body, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        self.http.close()
        self._server.stop()


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    made = Front()
    yield made
    made.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.close()


@pytest.fixture
def provider(running: Provider, front: Front) -> Provider:
    running.got.clear()
    front.fresh(dict.fromkeys(("anthropic", "cohere"), running.url) | {"openai": f"{running.url}/v1"})
    return running


def chunks(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert frames[-1] == "[DONE]"
    return [json.loads(frame) for frame in frames[:-1]]


def openai_chunk(text: str) -> str:
    chunk = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}
    return f"data: {json.dumps(chunk)}\n\n"


# --- OpenAI's wire


ANSWER = {"id": "chatcmpl-1", "model": "gpt-4-0613", "choices": [{"message": {"content": "Hi"}}], "new_field": {"x": 1}}


def test_a_chat_goes_out_with_the_secret_and_the_models_name_and_comes_back_unchanged(
    front: Front, provider: Provider
) -> None:
    provider.says(ANSWER)
    front.external = external(
        "openai", name="gpt-4", openai_api_key="{{secrets/s/openai}}", openai_organization="org-1"
    )
    body = CHAT | {
        "temperature": 0.1,
        "n": 2,
        "model": "my-chat",
        "client_request_id": "c",
        "usage_context": {"a": "b"},
    }
    answer = front.ask(body)
    assert (answer.status_code, answer.json()) == (200, ANSWER)
    assert answer.headers["served-model-name"] == "served-1"
    [got] = provider.got
    assert (got.method, got.path) == ("POST", "/v1/chat/completions")
    assert got.body == CHAT | {"model": "gpt-4", "temperature": 0.1, "n": 2}
    assert got.headers["authorization"] == f"Bearer {KEY}"
    assert got.headers["openai-organization"] == "org-1"


@pytest.mark.parametrize(
    ("task", "path", "body", "told"),
    [
        ("llm/v1/completions", "/v1/completions", {"prompt": "a", "max_tokens": 3}, {"choices": [{"text": "b"}]}),
        ("llm/v1/embeddings", "/v1/embeddings", {"input": ["a"]}, {"data": [{"index": 0, "embedding": [0.5]}]}),
    ],
)
def test_other_tasks_have_their_own_paths(
    front: Front, provider: Provider, task: str, path: str, body: dict[str, Any], told: dict[str, Any]
) -> None:
    provider.says(told)
    front.external = external("openai", task, openai_api_key_plaintext=KEY)
    assert front.ask(body).json() == told
    assert (provider.got[0].path, provider.got[0].body) == (path, {**body, "model": "some-model"})


@pytest.mark.parametrize(
    ("kind", "header", "words"), [("azure", "api-key", ""), ("azuread", "authorization", "Bearer ")]
)
def test_azure_has_deployments_a_version_and_its_own_header(
    front: Front, provider: Provider, kind: str, header: str, words: str
) -> None:
    provider.says(ANSWER)
    front.external = external(
        "openai",
        openai_api_key_plaintext=KEY,
        openai_api_type=kind,
        openai_api_base=provider.url,
        openai_api_version="2024-02-01",
        openai_deployment_name="my deployment",
    )
    assert front.ask(CHAT).status_code == 200
    [got] = provider.got
    assert (got.path, got.query) == ("/openai/deployments/my%20deployment/chat/completions", "api-version=2024-02-01")
    assert got.headers[header] == words + KEY


@pytest.mark.parametrize("path", ["", "/chat/completions"])
@pytest.mark.parametrize(
    ("settings", "header", "sent"),
    [
        ({"bearer_token_auth": {"token": "{{secrets/s/line}}"}}, "authorization", f"Bearer {KEY}"),
        ({"api_key_auth": {"key": "X-Key", "value_plaintext": KEY}}, "x-key", KEY),
    ],
)
def test_a_custom_provider_is_called_at_its_url_with_its_header(
    front: Front, provider: Provider, path: str, settings: dict[str, object], header: str, sent: str
) -> None:
    provider.says(ANSWER)
    front.external = external("custom", custom_provider_url=f"{provider.url}/api{path}", **settings)
    assert front.ask(CHAT).json() == ANSWER
    assert provider.got[0].path == "/api/chat/completions"
    assert provider.got[0].headers[header] == sent


def test_another_workspace_is_called_at_its_invocations(front: Front, provider: Provider) -> None:
    provider.says(ANSWER)
    front.external = external(
        "databricks-model-serving",
        name="their-chat",
        databricks_workspace_url=provider.url,
        databricks_api_token="{{secrets/s/openai}}",
    )
    assert front.ask(CHAT).json() == ANSWER
    assert provider.got[0].path == "/serving-endpoints/their-chat/invocations"
    assert provider.got[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_stream_passes_as_it_arrives(front: Front, provider: Provider) -> None:
    read = threading.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b": a comment\n\n" + openai_chunk("one").encode()
        assert await asyncio.to_thread(read.wait, 10), "the first chunk did not get through"
        yield b"event: odd\n" + openai_chunk("two").encode()[:20]
        yield openai_chunk("two").encode()[20:] + b"data: [DONE]\n\n"

    provider.answer = lambda _request: StreamingResponse(body(), media_type="text/event-stream; charset=utf-8")
    front.external = external("openai", openai_api_key_plaintext=KEY)
    with front.http.stream("POST", "/", json=CHAT | {"stream": True}) as answer:
        assert answer.headers["served-model-name"] == "served-1"
        lines = (line for line in answer.iter_lines() if line)
        assert json.loads(next(lines)[6:])["choices"][0]["delta"] == {"content": "one"}
        read.set()
        assert json.loads(next(lines)[6:])["choices"][0]["delta"] == {"content": "two"}
        assert list(lines) == ["data: [DONE]"]


def test_a_client_that_goes_away_lets_the_provider_go(front: Front, provider: Provider) -> None:
    left = threading.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            for _ in range(1000):
                yield openai_chunk("x").encode()
                await asyncio.sleep(0.01)
        finally:
            left.set()

    provider.answer = lambda _request: StreamingResponse(body(), media_type="text/event-stream")
    front.external = external("openai", openai_api_key_plaintext=KEY)
    with front.http.stream("POST", "/", json=CHAT | {"stream": True}) as answer:
        next(answer.iter_lines())
    assert left.wait(10)


# --- what goes wrong


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503, 529])
@pytest.mark.parametrize("stream", [False, True])
def test_a_providers_error_keeps_its_status_and_body_in_databricks_wrapping(
    front: Front, provider: Provider, status: int, stream: bool
) -> None:
    told = {"error": {"message": f"bad key {KEY}", "code": "c"}}
    provider.says(told, status, {"retry-after": "7"})
    front.external = external("openai", openai_api_key_plaintext=KEY)
    answer = front.ask(CHAT | {"stream": stream})
    assert answer.status_code == status
    assert answer.headers["retry-after"] == "7"
    assert answer.json() == {
        "error": "Received error from openai",
        "external_model_message": {"error": {"message": "bad key ***", "code": "c"}},
    }


def test_a_providers_error_that_is_no_json_is_its_text(front: Front, provider: Provider) -> None:
    provider.answer = lambda _request: Response("<html>overloaded</html>", 502)
    front.external = external("openai", openai_api_key_plaintext=KEY)
    answer = front.ask(CHAT)
    assert answer.status_code == 502
    assert answer.json()["external_model_message"] == {"message": "<html>overloaded</html>"}


def test_a_redirect_is_not_followed_with_the_credential(front: Front, provider: Provider) -> None:
    provider.answer = lambda _request: Response("", 307, {"location": f"{provider.url}/elsewhere"})
    front.external = external("openai", openai_api_key_plaintext=KEY)
    assert front.ask(CHAT).status_code == 502
    assert len(provider.got) == 1


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (Response("not json", media_type="application/json"), "another form than promised"),
        (Response("[]", media_type="application/json"), "another form than promised"),
        (Response('{"id": 1}', media_type="application/json"), "another form than promised"),
    ],
)
def test_an_answer_of_another_form_is_a_502(front: Front, provider: Provider, told: Response, reason: str) -> None:
    provider.answer = lambda _request: told
    front.external = external("openai", openai_api_key_plaintext=KEY)
    answer = front.ask(CHAT)
    assert (answer.status_code, answer.json()["error_code"]) == (502, "BAD_GATEWAY")
    assert reason in answer.json()["message"]


def test_a_whole_answer_where_a_stream_was_asked_for_is_a_502(front: Front, provider: Provider) -> None:
    provider.says(ANSWER)
    front.external = external("openai", openai_api_key_plaintext=KEY)
    answer = front.ask(CHAT | {"stream": True})
    assert answer.status_code == 502
    assert "application/json where a stream was asked for" in answer.json()["message"]


def test_a_stream_that_ends_too_early_ends_with_an_error_frame(front: Front, provider: Provider) -> None:
    provider.streams(openai_chunk("one"))
    front.external = external("openai", openai_api_key_plaintext=KEY)
    first, last = chunks(front.ask(CHAT | {"stream": True}))
    assert first["choices"]
    assert last["error"]["message"] == "openai ended its stream before the answer was whole."


def test_a_stream_that_says_nothing_at_all_is_an_ordinary_error(front: Front, provider: Provider) -> None:
    provider.streams()
    front.external = external("openai", openai_api_key_plaintext=KEY)
    assert front.ask(CHAT | {"stream": True}).status_code == 502


def test_nobody_there_is_a_503_that_names_the_place(front: Front) -> None:
    sock = listen("127.0.0.1", 0, hint="")
    place = f"http://127.0.0.1:{sock.getsockname()[1]}"
    sock.close()
    front.fresh({"openai": place})
    front.external = external("openai", openai_api_key_plaintext=KEY)
    answer = front.ask(CHAT)
    assert answer.status_code == 503
    assert f"openai cannot be reached at {place}/chat/completions" in answer.json()["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_takes_too_long_is_a_504(front: Front, provider: Provider, stream: bool) -> None:
    hung = threading.Event()

    async def hang(_request: Request) -> Response:
        await asyncio.to_thread(hung.wait, 10)
        return Response()

    provider.answer = hang
    front.fresh({"openai": provider.url}, timeout=0.2)
    front.external = external("openai", openai_api_key_plaintext=KEY)
    answer = front.ask(CHAT | {"stream": stream})
    hung.set()
    assert (answer.status_code, answer.json()["error_code"]) == (504, "DEADLINE_EXCEEDED")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], "must be a JSON object"),
        ({}, "Missing required chat parameter: 'messages'"),
        ({"messages": []}, "'messages' expects input with json type 'array'"),
        ({"messages": "hi"}, "'messages' expects input with json type 'array' but got 'string'"),
        ({"messages": ["hi"]}, "each of 'messages' must be an object"),
        ({"messages": [{"role": "user", "content": 1}]}, "'messages.content' expects"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "each part of a message's 'content'"),
        (CHAT | {"stream": "yes"}, "'stream' expects input with json type 'boolean'"),
        (CHAT | {"stop": [1]}, "'stop' must be a string or a list"),
        (CHAT | {"tools": {}}, "'tools' expects"),
    ],
)
def test_a_request_outside_the_task_is_400_and_goes_nowhere(
    front: Front, provider: Provider, body: object, reason: str
) -> None:
    front.external = external("openai", openai_api_key_plaintext=KEY)
    answer = front.ask(body)
    assert answer.status_code == 400
    assert reason in answer.json()["message"]
    assert provider.got == []


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("{{secrets/s/nothing}}", "Secret does not exist with scope: s and key: nothing"),
        ("{{secrets/s/odd}}", "the secret odd of the scope s cannot stand in a header"),
    ],
)
def test_a_secret_that_cannot_be_used_is_named_and_never_shown(
    front: Front, provider: Provider, reference: str, reason: str
) -> None:
    front.external = external("openai", openai_api_key=reference)
    answer = front.ask(CHAT)
    assert answer.status_code == 400
    assert reason.lower() in answer.json()["message"].lower()
    assert "ключ" not in answer.text
    assert provider.got == []


@pytest.mark.parametrize("name", ["ai21labs", "amazon-bedrock", "google-cloud-vertex-ai", "palm"])
def test_a_provider_that_is_not_spoken_here_is_a_501_that_says_which_are(front: Front, name: str) -> None:
    front.external = external(name)
    answer = front.ask(CHAT)
    assert (answer.status_code, answer.json()["error_code"]) == (501, "NOT_IMPLEMENTED")
    assert "anthropic, cohere, custom, databricks-model-serving, openai" in answer.json()["message"]


# --- the wires that are translated


@pytest.fixture
def claude(front: Front, provider: Provider) -> Provider:
    front.external = external("anthropic", name="claude-3", anthropic_api_key="{{secrets/s/openai}}")
    return provider


def test_a_chat_with_claude(front: Front, claude: Provider) -> None:
    claude.says(CLAUDE)
    told = front.ask(CHAT | {"max_tokens": 50}).json()
    [choice] = told["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello there."}
    assert choice["finish_reason"] == "stop"
    assert told["usage"] == {
        "prompt_tokens": 15,
        "completion_tokens": 6,
        "total_tokens": 21,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    [got] = claude.got
    assert got.path == "/messages"
    assert (got.headers["x-api-key"], got.headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert got.body["max_tokens"] == 50


def test_claudes_tool_calls_are_openais(front: Front, claude: Provider) -> None:
    claude.says(CLAUDE_CALLS)
    [choice] = front.ask(CHAT | {"tools": [TOOL]}).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"] == [
        {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    ]


def test_claudes_stream_becomes_chunks(front: Front, claude: Provider) -> None:
    claude.streams(*CLAUDE_STREAM)
    got = chunks(front.ask(CHAT | {"stream": True, "tools": [TOOL]}))
    deltas = [chunk["choices"][0]["delta"] for chunk in got]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content") or "" for delta in deltas) == "I look."
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert calls[0] == {
        "index": 0, "id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": ""},
    }  # fmt: skip
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "Oslo"}'
    assert got[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert (got[-1]["usage"]["prompt_tokens"], got[-1]["usage"]["completion_tokens"]) == (9, 15)
    assert {chunk["id"] for chunk in got} == {"msg_02"}


def test_an_error_in_claudes_stream_is_an_error_frame(front: Front, claude: Provider) -> None:
    error = {"type": "overloaded_error", "message": "Overloaded"}
    claude.streams(*CLAUDE_STREAM[:4], f"event: error\ndata: {json.dumps({'type': 'error', 'error': error})}\n\n")
    assert chunks(front.ask(CHAT | {"stream": True}))[-1] == {"error": error}


def test_a_completion_of_claude_is_a_chat_of_one_message(front: Front, claude: Provider) -> None:
    claude.says(CLAUDE)
    front.external["task"] = "llm/v1/completions"
    told = front.ask({"prompt": "Say hello"}).json()
    assert (told["object"], told["choices"][0]["text"]) == ("text_completion", "Hello there.")
    assert claude.got[0].body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Say hello"}]}]


def test_a_chat_with_cohere(front: Front, provider: Provider) -> None:
    provider.says(COMMAND)
    front.external = external("cohere", name="command-r", cohere_api_key_plaintext=KEY)
    told = front.ask(CHAT | {"top_p": 0.5, "stop": "x"}).json()
    assert told["choices"][0]["message"]["content"] == "Hello there."
    assert told["model"] == "command-r"
    assert told["usage"] == {"prompt_tokens": 71, "completion_tokens": 5, "total_tokens": 76}
    [got] = provider.got
    assert got.path == "/v2/chat"
    assert got.body == CHAT | {"model": "command-r", "p": 0.5, "stop_sequences": ["x"]}
    assert got.headers["authorization"] == f"Bearer {KEY}"


def test_coheres_stream_becomes_chunks(front: Front, provider: Provider) -> None:
    provider.streams(*COMMAND_STREAM)
    front.external = external("cohere", cohere_api_key_plaintext=KEY)
    got = chunks(front.ask(CHAT | {"stream": True}))
    deltas = [chunk["choices"][0]["delta"] for chunk in got]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Hello there."
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert (calls[0]["id"], calls[0]["function"]["name"]) == ("w_1", "weather")
    assert calls[1]["function"]["arguments"] == '{"city": "Oslo"}'
    assert got[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert got[-1]["usage"]["total_tokens"] == 16


def test_coheres_embeddings_say_what_they_are_for(front: Front, provider: Provider) -> None:
    provider.says(EMBED)
    front.external = external("cohere", "llm/v1/embeddings", cohere_api_key_plaintext=KEY)
    told = front.ask({"input": ["a", "b"], "input_type": "search_query"}).json()
    assert [item["embedding"] for item in told["data"]] == [[0.1, 0.2], [0.3, 0.4]]
    assert provider.got[0].body["input_type"] == "search_query"
    front.ask({"input": "a"})
    assert (provider.got[1].body["input_type"], provider.got[1].body["texts"]) == ("search_document", ["a"])


# --- whole: secret, gateway, wire, model


@pytest.fixture(scope="module")
def upstream(workspace: SimpleNamespace) -> Iterator[str]:
    """The workspace's own OpenAI-wire upstream; its base URL."""
    sock = listen("127.0.0.1", 0, hint="")
    server = WebServer(ErrorMiddleware(Router(Upstream(LocalModels(workspace.engine, Vectors()), KEY).routes())), sock)
    server.start()
    yield f"http://127.0.0.1:{sock.getsockname()[1]}{UPSTREAM_PATH}"
    server.stop()


@pytest.fixture
def own(front: Front, upstream: str) -> Callable[..., httpx.Response]:
    """Ask an endpoint whose provider is the upstream."""
    front.fresh({"openai": upstream})

    def ask(body: object, task: str = "llm/v1/chat", key: str = "{{secrets/s/openai}}") -> httpx.Response:
        front.external = external("openai", task, name="gpt-4", openai_api_key=key)
        return front.ask(body)

    return ask


def test_the_real_model_answers_an_external_endpoint(own: Callable[..., httpx.Response]) -> None:
    body = {"messages": [{"role": "user", "content": "Where is the Eiffel Tower?"}], "temperature": 0, "max_tokens": 12}
    whole = own(body).json()
    assert "Paris" in whole["choices"][0]["message"]["content"]
    assert "SmolLM2" in whole["model"]
    streamed = chunks(own(body | {"stream": True}))
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in streamed if chunk["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert len(streamed) > 3


def test_the_real_model_embeds_and_completes_for_an_external_endpoint(own: Callable[..., httpx.Response]) -> None:
    vectors = own({"input": ["a", "b"]}, "llm/v1/embeddings").json()["data"]
    assert [len(item["embedding"]) for item in vectors] == [256, 256]
    assert own({"prompt": "Hello", "max_tokens": 4}, "llm/v1/completions").json()["choices"][0]["text"]


def test_the_upstream_checks_the_key_as_openai_does(own: Callable[..., httpx.Response], upstream: str) -> None:
    wrong = own(CHAT, key="{{secrets/s/line}}")
    assert wrong.status_code == 200  # the line break of a file is not part of the key
    SECRETS["s", "wrong"] = "sk-wrong"
    answer = own(CHAT, key="{{secrets/s/wrong}}")
    assert answer.status_code == 401
    assert answer.json()["external_model_message"]["error"]["code"] == "invalid_api_key"
    for headers in ({}, {"authorization": "Basic eA=="}, {"authorization": "Bearer ü".encode()}):
        refused = httpx.post(f"{upstream}/chat/completions", json=CHAT, headers=headers, trust_env=False)
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")


def test_the_upstream_lists_its_models_and_refuses_in_openais_form(upstream: str) -> None:
    with httpx.Client(base_url=upstream, headers={"authorization": f"Bearer {KEY}"}, trust_env=False) as http:
        assert len(http.get("/models").json()["data"]) == 2
        assert http.get("/nowhere").json()["error"]["code"] == "unknown_url"
        assert http.get("/chat/completions").status_code == 404
        refused = http.post("/chat/completions", content=b"{")
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
