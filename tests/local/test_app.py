from __future__ import annotations

import base64
import json
import socket
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

CHAT = "/serving-endpoints/smollm2-chat/invocations"
COMPLETIONS = "/serving-endpoints/smollm2-completions/invocations"
EMBEDDINGS = "/serving-endpoints/databricks-bge-large-en/invocations"
DOLLY = "/serving-endpoints/dolly/invocations"
HELLO = [{"role": "user", "content": "hello"}]
TOWER = [{"role": "user", "content": "Where is the Eiffel Tower?"}]
MEGABYTE = 1 << 20


def post(http: httpx.Client, path: str, body: object, status: int = 200) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def frames(answer: httpx.Response) -> Iterator[str]:
    for line in answer.iter_lines():
        if line:
            assert line.startswith("data: ")
            yield line.removeprefix("data: ")


def stream(http: httpx.Client, path: str, body: dict[str, object]) -> list[Any]:
    with http.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        got = list(frames(answer))
    assert got[-1] == "[DONE]"
    return [json.loads(frame) for frame in got[:-1]]


# --- the credential and what every answer carries


def basic(pair: str) -> str:
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def test_the_token_may_be_the_password_of_a_user_called_token(workspace: SimpleNamespace) -> None:
    token = workspace.identity.token
    body = {"messages": HELLO, "max_tokens": 1}
    for header in (basic(f"token:{token}"), basic(f"token:{token}").replace("Basic", "basic  ")):
        with httpx.Client(base_url=workspace.host, headers={"authorization": header}, trust_env=False) as client:
            assert client.get("/api/2.0/serving-endpoints").status_code == 200
            assert client.post(CHAT, json=body).status_code == 200
            assert client.post(CHAT, json={**body, "stream": True}).text.endswith("data: [DONE]\n\n")
            assert client.get("/api/2.0/preview/scim/v2/Me").status_code == 200
    for wrong in (f"token:{token}x", "token:tökén", f"token:{token}:"):
        answer = httpx.post(workspace.host + CHAT, headers={"authorization": basic(wrong)}, json=body, trust_env=False)
        assert answer.status_code == 403, wrong
        assert answer.json()["message"].startswith("Invalid access token."), wrong


def test_a_web_page_of_somebody_else_is_refused_whatever_credential_a_browser_may_add(
    workspace: SimpleNamespace,
) -> None:
    credential = {"authorization": basic(f"token:{workspace.identity.token}")}
    body = {"messages": HELLO, "max_tokens": 1}
    for path in (CHAT, "/api/2.0/serving-endpoints", "/oidc/v1/token", "/nowhere"):
        for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            answer = httpx.post(workspace.host + path, json=body, headers={**credential, **headers}, trust_env=False)
            assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED"), (path, headers)
    for headers in ({"origin": "http://localhost:3000"}, {"host": "host.docker.internal:8765"}):
        answer = httpx.post(workspace.host + CHAT, json=body, headers={**credential, **headers}, trust_env=False)
        assert answer.status_code == 200, headers


NO_TOKEN = (
    "",
    "Bearer",
    "Basic",
    "Basic !",
    "Basic dG9rZW4",
    basic("user:pass"),
    basic("token:"),
    basic("token"),
    "Digest x",
)


@pytest.mark.parametrize("credential", [None, *NO_TOKEN])
def test_without_a_token_the_answer_is_401_as_databricks_words_it(
    workspace: SimpleNamespace, credential: str | None
) -> None:
    headers = {} if credential is None else {"authorization": credential}
    answer = httpx.get(f"{workspace.host}/api/2.0/serving-endpoints", headers=headers, trust_env=False)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="DatabricksRealm"'
    assert answer.json() == {
        "error_code": 401,
        "message": "Credential was not sent or was of an unsupported type for this API. "
        f"[ReqId: {answer.headers['x-request-id']}]",
    }


@pytest.mark.parametrize("path", ["/api/2.0/serving-endpoints", CHAT, "/api/local/driver-apps", "/nowhere"])
def test_a_wrong_token_is_403_everywhere(workspace: SimpleNamespace, path: str) -> None:
    wrong = {"authorization": f"Bearer {workspace.identity.token}x"}
    answer = httpx.post(f"{workspace.host}{path}", headers=wrong, json={}, trust_env=False)
    assert answer.status_code == 403
    assert answer.headers["x-databricks-reason-phrase"] == "Invalid access token."
    assert answer.json() == {
        "error_code": 403,
        "message": f"Invalid access token. [ReqId: {answer.headers['x-request-id']}]",
    }


def test_a_token_outside_ascii_is_only_wrong(workspace: SimpleNamespace) -> None:
    headers = [(b"authorization", "Bearer tökén".encode())]
    answer = httpx.get(f"{workspace.host}/api/2.0/serving-endpoints", headers=headers, trust_env=False)
    assert answer.status_code == 403


def test_every_answer_carries_a_new_request_id_and_the_workspace_id(
    http: httpx.Client, workspace: SimpleNamespace
) -> None:
    answers = [http.get("/api/2.0/serving-endpoints"), http.get("/nowhere"), http.post(CHAT, json={})]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
    assert {answer.headers["x-databricks-org-id"] for answer in answers} == {workspace.identity.workspace_id}


def test_the_host_tells_about_itself_without_a_credential(workspace: SimpleNamespace) -> None:
    about = httpx.get(f"{workspace.host}/.well-known/databricks-config", trust_env=False).json()
    assert about["workspace_id"] == workspace.identity.workspace_id
    assert about["oidc_endpoint"] == f"{workspace.host}/oidc"


def test_me_is_somebody(http: httpx.Client) -> None:
    assert http.get("/api/2.0/preview/scim/v2/Me").json()["userName"]


# --- which endpoints there are


def test_the_ready_endpoints_are_listed_with_kind_and_task(http: httpx.Client) -> None:
    listed = http.get("/api/2.0/serving-endpoints").json()["endpoints"]
    assert {one["name"]: (one["endpoint_type"], one.get("task")) for one in listed} == {
        "smollm2-chat": ("FOUNDATION_MODEL_API", "llm/v1/chat"),
        "smollm2-completions": ("FOUNDATION_MODEL_API", "llm/v1/completions"),
        "databricks-bge-large-en": ("FOUNDATION_MODEL_API", "llm/v1/embeddings"),
        "smollm2-agent": ("CUSTOM_MODEL", "agent/v1/responses"),
        "smollm2-chat-agent": ("CUSTOM_MODEL", "agent/v2/chat"),
        "dolly": ("CUSTOM_MODEL", None),
    }


@pytest.mark.parametrize("name", ["smollm2-chat", "dolly"])
def test_an_endpoint_is_described_in_the_shape_of_databricks(
    http: httpx.Client, workspace: SimpleNamespace, name: str
) -> None:
    one = http.get(f"/api/2.0/serving-endpoints/{name}").json()
    assert one["state"] == {"ready": "READY", "config_update": "NOT_UPDATING"}
    assert one["creation_timestamp"] == workspace.identity.created_ms > 1_600_000_000_000
    assert len(one["id"]) == 32
    (entity,) = one["config"]["served_entities"]
    assert entity["state"]["deployment"] == "DEPLOYMENT_READY"
    (route,) = one["config"]["traffic_config"]["routes"]
    assert route == {
        "served_model_name": entity["name"],
        "served_entity_name": entity["name"],
        "traffic_percentage": 100,
    }


def test_the_embeddings_endpoint_says_that_it_is_not_bge(http: httpx.Client) -> None:
    one = http.get("/api/2.0/serving-endpoints/databricks-bge-large-en").json()
    (entity,) = one["config"]["served_entities"]
    assert "wordllama" in entity["foundation_model"]["name"]
    assert "not BGE" in entity["foundation_model"]["description"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/2.0/serving-endpoints/my-chat"),
        ("POST", "/serving-endpoints/my-chat/invocations"),
        ("POST", "/serving-endpoints/my-chat/served-models/x/invocations"),
    ],
)
def test_an_endpoint_that_was_not_created_does_not_exist(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path, json={"messages": HELLO})
    assert answer.status_code == 404
    assert answer.json() == {
        "error_code": "RESOURCE_DOES_NOT_EXIST",
        "message": "Endpoint with name 'my-chat' does not exist.",
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/serving-endpoints/models"), ("GET", CHAT), ("POST", "/serving-endpoints/dolly"), ("PUT", DOLLY)],
)
def test_a_wrong_invocation_path_or_method_says_which_paths_there_are(
    http: httpx.Client, method: str, path: str
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 404
    assert answer.json()["error_code"] == "ENDPOINT_NOT_FOUND"
    assert "/serving-endpoints/<endpoint_name>/invocations" in answer.json()["message"]


def test_any_other_path_is_no_api(http: httpx.Client) -> None:
    answer = http.post("/api/2.0/nowhere")
    assert answer.status_code == 404
    assert answer.json() == {"error_code": "ENDPOINT_NOT_FOUND", "message": "No API found for 'POST /api/2.0/nowhere'"}


# --- chat


def test_chat_answers_for_real(http: httpx.Client) -> None:
    answer = http.post(CHAT, json={"messages": TOWER, "temperature": 0, "max_tokens": 12})
    reply = answer.json()
    (choice,) = reply["choices"]
    assert choice["message"]["role"] == "assistant"
    assert "Paris" in choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length")
    assert reply["object"] == "chat.completion"
    assert reply["created"] > 1_600_000_000
    assert reply["model"] == "SmolLM2-135M-Instruct.Q4_1"
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 12
    assert answer.headers["served-model-name"] == "smollm2-135m-instruct-q4_1"


def test_n_choices_count_the_prompt_once(http: httpx.Client) -> None:
    one = post(http, CHAT, {"messages": HELLO, "max_tokens": 3})
    two = post(http, CHAT, {"messages": HELLO, "max_tokens": 3, "n": 2})
    assert [choice["index"] for choice in two["choices"]] == [0, 1]
    assert two["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert two["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize(("asked", "alternatives"), [({}, 0), ({"top_logprobs": 0}, 0), ({"top_logprobs": 2}, 2)])
def test_logprobs_come_for_every_token(http: httpx.Client, asked: dict[str, int], alternatives: int) -> None:
    reply = post(http, CHAT, {"messages": HELLO, "max_tokens": 3, "temperature": 0, "logprobs": True, **asked})
    entries = reply["choices"][0]["logprobs"]["content"]
    assert len(entries) == 3
    assert all(len(entry["top_logprobs"]) == alternatives and entry["logprob"] <= 0 for entry in entries)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("most", [0, 2])
def test_logprobs_of_completions_are_lists_side_by_side(http: httpx.Client, raw: bool, most: int) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0, "logprobs": most, "use_raw_prompt": raw}
    (whole,) = post(http, COMPLETIONS, body)["choices"]
    held = whole["logprobs"]
    assert "".join(held["tokens"]) == whole["text"]
    for offset, token in zip(held["text_offset"], held["tokens"], strict=True):
        assert whole["text"][offset:].startswith(token)
    for tops, logprob in zip(held["top_logprobs"], held["token_logprobs"], strict=True):
        assert len(tops) == most
        assert max(tops.values(), default=logprob) == logprob
    told = [chunk["choices"][0]["logprobs"] for chunk in stream(http, COMPLETIONS, body)]
    for name in ("tokens", "text_offset"):
        assert [one for part in told if part for one in part[name]] == held[name]


def test_a_stream_has_the_text_of_the_unary_answer_and_cumulative_usage(http: httpx.Client) -> None:
    body = {"messages": TOWER, "temperature": 0, "max_tokens": 12}
    whole = post(http, CHAT, body)
    chunks = stream(http, CHAT, body)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert all("role" not in delta for delta in deltas[1:])
    assert "".join(delta["content"] for delta in deltas) == whole["choices"][0]["message"]["content"]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [whole["choices"][0]["finish_reason"]]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == whole["usage"]["completion_tokens"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_stream_arrives_while_the_model_is_still_writing(
    http: httpx.Client, workspace: SimpleNamespace, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    body = {"messages": HELLO, "max_tokens": 2000, "stream": True, "response_format": endless_schema()}
    with http.stream("POST", CHAT, json=body) as answer:
        arriving = frames(answer)
        first = [next(arriving) for _ in range(3)]
        assert workspace.engine.metrics()["requests_processing"] == 1
    assert all(json.loads(frame)["choices"][0]["finish_reason"] is None for frame in first)
    eventually(lambda: workspace.engine.metrics()["requests_processing"] == 0)


def endless_schema() -> dict[str, object]:
    """Digits, a thousand of them: an answer that does not end by itself too soon."""
    schema = {"type": "string", "pattern": "^[0-9]{1000}$"}
    return {"type": "json_schema", "json_schema": {"name": "digits", "schema": schema}}


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_goes_away_frees_its_slot(
    workspace: SimpleNamespace, eventually: Callable[[Callable[[], bool]], None], streamed: bool
) -> None:
    before = workspace.engine.metrics()["tokens_predicted_total"]
    body = json.dumps(
        {"prompt": "Once upon a time", "use_raw_prompt": True, "max_tokens": 3000, "stream": streamed}
    ).encode()
    head = (
        f"POST {COMPLETIONS} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {workspace.identity.token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    port = int(workspace.host.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode() + body)
        eventually(lambda: workspace.engine.metrics()["requests_processing"] == 1)
    eventually(lambda: workspace.engine.metrics()["requests_processing"] == 0)
    assert workspace.engine.metrics()["tokens_predicted_total"] - before < 1500


def test_a_stream_that_cannot_begin_is_an_ordinary_400(http: httpx.Client) -> None:
    long = [{"role": "user", "content": "hi " * 6000}]
    problem = post(http, CHAT, {"messages": long, "stream": True}, status=400)
    assert "exceeds the available context size" in problem["message"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"prompt": "hello"}, 'Bad request: json: unknown field "prompt"'),
        ({"messages": HELLO, "inputs": []}, 'Bad request: json: unknown field "inputs"'),
        ({}, "missing required field 'messages'"),
        ({"messages": HELLO, "temperature": "hot"}, "'temperature' must be a number"),
        ([1], "cannot unmarshal array"),
    ],
)
def test_what_a_foundation_endpoint_does_not_know_is_400(http: httpx.Client, body: object, reason: str) -> None:
    problem = post(http, CHAT, body, status=400)
    assert problem["error_code"] == "BAD_REQUEST"
    assert reason in problem["message"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "invalid JSON"),
        (b"{", "invalid JSON"),
        (b'{"messages": NaN}', "NaN is not a JSON value"),
        (b'{"temperature": -Infinity}', "-Infinity is not a JSON value"),
        (b'{"a": "\xff"}', "not valid UTF-8"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "not valid UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid JSON"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS, DOLLY, "/serving-endpoints/chat/completions"])
def test_what_is_not_json_is_400_with_the_reason(http: httpx.Client, path: str, content: bytes, reason: str) -> None:
    answer = http.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert reason in answer.json()["message"]


@pytest.mark.parametrize(("path", "limit"), [(CHAT, 4 * MEGABYTE), (DOLLY, 16 * MEGABYTE)])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_over_the_limit_is_413_and_one_at_the_limit_is_read(
    http: httpx.Client, path: str, limit: int, chunked: bool
) -> None:
    def content(size: int) -> bytes | Iterator[bytes]:
        body = b" " * size
        return iter([body[: size // 2], body[size // 2 :]]) if chunked else body

    headers = {"content-type": "application/json"}
    over = http.post(path, content=content(limit + 1), headers=headers)
    assert over.status_code == 413
    assert str(limit) in over.json()["message"]
    assert http.post(path, content=content(limit), headers=headers).status_code == 400


# --- completions


def test_completions_answer_in_their_own_shape(http: httpx.Client) -> None:
    body = {"prompt": "Where is the Eiffel Tower?", "temperature": 0, "max_tokens": 12}
    reply = post(http, COMPLETIONS, body)
    assert reply["object"] == "text_completion"
    assert "Paris" in reply["choices"][0]["text"]
    chunks = stream(http, COMPLETIONS, body)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == reply["choices"][0]["text"]


def test_several_prompts_get_a_choice_each_in_their_order(http: httpx.Client) -> None:
    prompts = ["Where is the Eiffel Tower?", "What is 2 + 2?"]
    reply = post(http, COMPLETIONS, {"prompt": prompts, "temperature": 0, "max_tokens": 12})
    alone = [post(http, COMPLETIONS, {"prompt": p, "temperature": 0, "max_tokens": 12}) for p in prompts]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    assert "Paris" in reply["choices"][0]["text"]
    for name in ("prompt_tokens", "completion_tokens"):
        assert reply["usage"][name] == sum(one["usage"][name] for one in alone)


def test_a_raw_prompt_is_continued(http: httpx.Client) -> None:
    reply = post(http, COMPLETIONS, {"prompt": "The sky is", "use_raw_prompt": True, "temperature": 0, "max_tokens": 5})
    assert reply["choices"][0]["text"].startswith(" ")
    assert reply["usage"]["prompt_tokens"] == 3


# --- embeddings


def test_embeddings_come_in_the_order_of_the_texts(http: httpx.Client) -> None:
    reply = post(http, EMBEDDINGS, {"input": ["hello", "quantum physics"]})
    assert [one["index"] for one in reply["data"]] == [0, 1]
    assert reply["data"][0]["embedding"] == post(http, EMBEDDINGS, {"input": "hello"})["data"][0]["embedding"]
    assert len(reply["data"][0]["embedding"]) == 256
    assert reply["model"] == "wordllama-l2-supercat-256"
    assert reply["usage"].keys() == {"prompt_tokens", "total_tokens"}
    assert reply["usage"]["prompt_tokens"] > 1


def test_embeddings_as_base64_are_the_same_numbers(http: httpx.Client) -> None:
    plain = post(http, EMBEDDINGS, {"input": "hello"})["data"][0]["embedding"]
    packed = post(http, EMBEDDINGS, {"input": "hello", "encoding_format": "base64"})["data"][0]["embedding"]
    assert struct.unpack("<256f", base64.b64decode(packed)) == pytest.approx(plain)


def test_missing_input_is_named(http: httpx.Client) -> None:
    assert post(http, EMBEDDINGS, {}, status=400) == {
        "error_code": "INVALID_PARAMETER_VALUE",
        "message": "Missing required embeddings parameter: 'input'",
    }


# --- the paths of OpenAI clients


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"model": "smollm2-chat", "messages": HELLO, "max_tokens": 1}),
        ("completions", {"model": "smollm2-completions", "prompt": "hello", "max_tokens": 1}),
        ("embeddings", {"model": "databricks-bge-large-en", "input": "hello"}),
    ],
)
def test_the_model_field_names_the_endpoint(http: httpx.Client, path: str, body: dict[str, object]) -> None:
    post(http, f"/serving-endpoints/{path}", body)
    assert "my-chat" in post(http, f"/serving-endpoints/{path}", {**body, "model": "my-chat"}, status=404)["message"]
    assert "'model'" in post(http, f"/serving-endpoints/{path}", {**body, "model": None}, status=400)["message"]
    assert "dolly" in post(http, f"/serving-endpoints/{path}", {**body, "model": "dolly"}, status=400)["message"]


def test_a_served_model_can_be_called_by_its_name(http: httpx.Client) -> None:
    path = "/serving-endpoints/dolly/served-models/{}/invocations"
    assert post(http, path.format("dolly-1"), {"dataframe_records": []}) == {"predictions": []}
    assert "'dolly-2'" in post(http, path.format("dolly-2"), {"dataframe_records": []}, status=404)["message"]


# --- dolly, the custom model


def test_dolly_answers_every_format_with_the_same_predictions(http: httpx.Client) -> None:
    row = {"prompt": "Where is the Eiffel Tower?", "stop": ["is"]}
    params = {"temperature": 0, "max_tokens": 12}
    bodies: list[dict[str, object]] = [
        {"dataframe_records": [row], "params": params},
        {"dataframe_records": [{**row, **params}]},
        {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}, "params": params},
        {"inputs": {name: [value] for name, value in row.items()}, "params": params},
        {"instances": [row], "params": params},
    ]
    replies = [post(http, DOLLY, body) for body in bodies]
    assert replies == [replies[0]] * len(bodies)
    (prediction,) = replies[0]["predictions"]
    assert prediction
    assert "is" not in prediction
    assert post(http, DOLLY, {**row, **params}) == [prediction]


def test_several_rows_get_several_predictions_in_their_order(http: httpx.Client) -> None:
    prompts = ["Where is the Eiffel Tower?", "What is 2 + 2?", "Where is the Eiffel Tower?"]
    body = {
        "dataframe_records": [{"prompt": prompt} for prompt in prompts],
        "params": {"temperature": 0, "max_tokens": 12},
    }
    first, second, third = post(http, DOLLY, body)["predictions"]
    assert "Paris" in first
    assert first != second
    assert "Paris" in third


def test_max_tokens_is_honoured_as_column_and_as_param(http: httpx.Client) -> None:
    row = {"prompt": "Tell me a long story", "temperature": 0}
    long = post(http, DOLLY, {"dataframe_records": [row], "params": {"max_tokens": 20}})["predictions"][0]
    short = post(http, DOLLY, {"dataframe_records": [{**row, "max_tokens": 3}]})["predictions"][0]
    assert long.startswith(short)
    assert len(short) < len(long)


def test_dolly_streams_json_strings(http: httpx.Client) -> None:
    body = {"prompt": "Where is the Eiffel Tower?", "temperature": 0, "max_tokens": 12}
    pieces = stream(http, DOLLY, body)
    assert len(pieces) > 3
    assert all(isinstance(piece, str) and piece for piece in pieces)
    assert ["".join(pieces)] == post(http, DOLLY, body)
    assert stream(http, DOLLY, {"dataframe_records": [body]}) == pieces


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"messages": HELLO}, "missing inputs ['prompt']"),
        ({"dataframe_records": [{"q": "a"}]}, "missing inputs ['prompt']"),
        ({"prompt": "a", "temperature": "hot"}, "'temperature' must be a number"),
        ({"dataframe_records": [{"prompt": "a"}, {"prompt": "b"}], "stream": True}, "a stream answers one row, got 2"),
    ],
)
def test_what_dolly_cannot_take_is_400_with_the_reason(http: httpx.Client, body: object, reason: str) -> None:
    assert reason in post(http, DOLLY, body, status=400)["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "text/csv", "", "application/json; charset=latin-1"])
def test_dolly_takes_json_in_utf8_only(http: httpx.Client, content_type: str) -> None:
    answer = http.post(DOLLY, content=b'{"dataframe_records": []}', headers={"content-type": content_type})
    assert answer.status_code == 415


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=UTF-8", "Application/JSON"])
def test_dolly_takes_json_however_it_is_spelled(http: httpx.Client, content_type: str) -> None:
    answer = http.post(DOLLY, content=b'{"dataframe_records": []}', headers={"content-type": content_type})
    assert answer.json() == {"predictions": []}
