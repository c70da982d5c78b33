"""Every error body that Databricks, its proxies and the models behind them are known to send, and worse."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbllm import errors
from dbllm._protocol.error_responses import (
    answer_error,
    error_frame,
    not_json,
    read_error,
    request_id,
    retry_after,
    status_error,
)
from dbllm._protocol.responses import json_or_none
from dbllm._protocol.sse import Event
from dbllm.errors import APIStatusError, Raw

WALL = 1_700_000_000.0


def judged(status: int, body: object, headers: dict[str, str] | None = None) -> APIStatusError:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return status_error(Raw(status, headers or {}, data), wall=WALL)


PATH_FORM = (
    "Path must be of form /serving-endpoints/<endpoint_name>/invocations or "
    "/serving-endpoints/<endpoint_name>/served-models/<served_model_name>/invocations"
)
NO_CREDENTIAL = "Credential was not sent or was of an unsupported type for this API. [ReqId: 8a6-1]"
LIMIT = "REQUEST_LIMIT_EXCEEDED: Exceeded workspace input tokens per minute rate limit for m."
NESTED = {"error": {"message": "too long", "code": "context_length_exceeded", "innererror": {"code": "X"}}}

BODIES: list[tuple[str, int, object, type[APIStatusError], str, str]] = [
    # name, status, body, class, error_code, a part of the detail
    (
        "integer code",
        401,
        {"error_code": 401, "message": NO_CREDENTIAL},
        errors.AuthenticationError,
        "401",
        NO_CREDENTIAL,
    ),
    (
        "wrong token",
        403,
        {"error_code": 403, "message": "Invalid access token."},
        errors.PermissionDeniedError,
        "403",
        "Invalid access token.",
    ),
    (
        "permission",
        403,
        {"error_code": "PERMISSION_DENIED", "message": "no"},
        errors.PermissionDeniedError,
        "PERMISSION_DENIED",
        "no",
    ),
    (
        "unknown endpoint",
        404,
        {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Endpoint with name 'x' does not exist."},
        errors.NotFoundError,
        "RESOURCE_DOES_NOT_EXIST",
        "Endpoint with name 'x' does not exist.",
    ),
    (
        "bad path",
        404,
        {"error_code": "ENDPOINT_NOT_FOUND", "message": PATH_FORM},
        errors.NotFoundError,
        "ENDPOINT_NOT_FOUND",
        PATH_FORM,
    ),
    (
        "bare text",
        400,
        b'Bad request: json: unknown field "prompt"',
        errors.BadRequestError,
        "400",
        'Bad request: json: unknown field "prompt"',
    ),
    (
        "text with a code",
        429,
        LIMIT.encode(),
        errors.RateLimitError,
        "REQUEST_LIMIT_EXCEEDED",
        "input tokens per minute",
    ),
    (
        "limit",
        429,
        {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": LIMIT},
        errors.RateLimitError,
        "REQUEST_LIMIT_EXCEEDED",
        "input tokens per minute",
    ),
    (
        "provider with code and message",
        400,
        {"error": "Received error from openai", "external_model_message": {"error_code": "BAD", "message": "inner"}},
        errors.BadRequestError,
        "BAD",
        "Received error from openai: inner",
    ),
    (
        "provider with its own error object",
        400,
        {"error": "Received error from azure", "external_model_message": NESTED},
        errors.ContextOverflowError,
        "context_length_exceeded",
        "Received error from azure: too long",
    ),
    (
        "provider with text",
        500,
        {"error": "Received error from cohere", "external_model_message": "boom"},
        errors.InternalServerError,
        "500",
        "Received error from cohere: boom",
    ),
    (
        "provider without a word",
        500,
        {"error": "Received error from cohere", "external_model_message": None},
        errors.InternalServerError,
        "500",
        "Received error from cohere",
    ),
    (
        "provider beside a code",
        400,
        {"error_code": "BAD_REQUEST", "message": "Received error", "external_model_message": {"message": "inner"}},
        errors.BadRequestError,
        "BAD_REQUEST",
        "Received error: inner",
    ),
    ("html", 502, b"<html><head><title>502 Bad\nGateway</title>", errors.InternalServerError, "502", "502 Bad Gateway"),
    (
        "html without a title",
        503,
        b"\n<!DOCTYPE html><body><h1>Sorry</h1> &amp; bye<style>p{x:y}</style></body>",
        errors.InternalServerError,
        "503",
        "Sorry",
    ),
    (
        "scim",
        400,
        {"detail": "bad filter", "status": "400", "scimType": "invalidFilter", "schemas": ["urn:x"]},
        errors.BadRequestError,
        "invalidFilter",
        "bad filter",
    ),
    (
        "scim without a type",
        404,
        {"detail": "User not found", "status": "404", "schemas": ["urn:x"]},
        errors.NotFoundError,
        "404",
        "User not found",
    ),
    (
        "oauth",
        401,
        {"error": "invalid_client", "error_description": "Client authentication failed"},
        errors.AuthenticationError,
        "invalid_client",
        "Client authentication failed",
    ),
    (
        "oauth of another kind",
        400,
        {"errorCode": "E0000022", "errorSummary": "not supported"},
        errors.BadRequestError,
        "E0000022",
        "not supported",
    ),
    ("error text", 400, {"error": "plain words"}, errors.BadRequestError, "400", "plain words"),
    (
        "openai",
        429,
        {"error": {"message": "slow down", "type": "rate", "code": None, "param": None}},
        errors.RateLimitError,
        "rate",
        "slow down",
    ),
    (
        "openai with a code",
        400,
        {"error": {"message": "m", "type": "invalid_request_error", "code": "too_long"}},
        errors.BadRequestError,
        "too_long",
        "m",
    ),
    (
        "mlflow scoring",
        400,
        {"error_code": "BAD_REQUEST", "message": "The input must be a JSON dictionary", "stack_trace": "T"},
        errors.BadRequestError,
        "BAD_REQUEST",
        "The input must be",
    ),
    (
        "exists",
        409,
        {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "taken"},
        errors.ConflictError,
        "RESOURCE_ALREADY_EXISTS",
        "taken",
    ),
    (
        "validation",
        422,
        {"detail": [{"loc": ["body"], "msg": "field required"}]},
        errors.BadRequestError,
        "422",
        "field required",
    ),
    ("too large", 413, b"", errors.RequestTooLargeError, "413", "413"),
    ("asleep", 504, b"upstream request timeout", errors.InternalServerError, "504", "upstream request timeout"),
    ("overloaded", 529, {"error": {"type": "overloaded_error", "message": "busy"}}, errors.InternalServerError, "", ""),
    ("empty", 500, b"", errors.InternalServerError, "500", "500"),
    ("blank", 500, b" \r\n ", errors.InternalServerError, "500", "500"),
    ("empty object", 500, {}, errors.InternalServerError, "500", ""),
    ("null", 500, None, errors.InternalServerError, "500", ""),
    ("list", 500, ["a", "b"], errors.InternalServerError, "500", ""),
    ("string", 500, "just a text", errors.InternalServerError, "500", "just a text"),
    ("number", 500, 7, errors.InternalServerError, "500", ""),
    ("not utf-8", 500, b"\xff\xfe broken", errors.InternalServerError, "500", "broken"),
    ("half a JSON", 500, b'{"error_code": "X", "mess', errors.InternalServerError, "500", "mess"),
    ("boolean code", 400, {"error_code": True, "message": "m"}, errors.BadRequestError, "400", "m"),
    ("null code", 400, {"error_code": None, "message": "m"}, errors.BadRequestError, "400", "m"),
]


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "part"), [row[1:] for row in BODIES], ids=[r[0] for r in BODIES]
)
def test_a_real_body_becomes_the_error_it_means(
    status: int, body: object, kind: type[APIStatusError], code: str, part: str
) -> None:
    error = judged(status, body)
    assert type(error) is kind
    assert error.status == status
    assert isinstance(error.error_code, str)
    assert error.error_code == (code or error.error_code)
    assert error.error_code
    assert part in error.detail
    assert error.raw is not None
    assert error.raw.status == status
    taken = error.error_code == "RESOURCE_ALREADY_EXISTS"
    assert error.message.endswith("or change what is there." if taken else kind.next_step)


WORDS = '{"error_code": "RESOURCE_EXHAUSTED", "message": "d\u00e9j\u00e0 \u20ac"}'
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "cp1252")


def test_an_error_body_keeps_its_code_and_its_letters_in_every_encoding() -> None:
    for encoding in ENCODINGS:
        error = judged(429, WORDS.encode(encoding))
        assert (error.error_code, error.detail) == ("RESOURCE_EXHAUSTED", "d\u00e9j\u00e0 \u20ac"), encoding
    error = judged(400, '{"error_code": "X", "message": "d\u00e9j\u00e0"}'.encode("latin-1"))
    assert (error.error_code, error.detail) == ("X", "d\u00e9j\u00e0")
    for encoding in ENCODINGS:
        page = "<!doctype html><title>Zugriff verweigert \u00fc\u20ac</title>".encode(encoding)
        assert judged(502, page).detail == "an HTML page: Zugriff verweigert \u00fc\u20ac", encoding
        assert judged(400, "RESOURCE_EXHAUSTED: d\u00e9j\u00e0".encode(encoding)).error_code == "RESOURCE_EXHAUSTED", (
            encoding
        )
    cut = judged(500, "d\u00e9j\u00e0".encode()[:-1]).detail
    assert cut == "d\u00e9j\ufffd"  # half a character at the end makes no other encoding of the whole


PROVIDER_401 = {"error": {"message": "Incorrect API key provided: sk-x", "code": "invalid_api_key"}}


def test_a_providers_refusal_of_the_endpoints_key_speaks_of_its_secret_and_not_of_the_callers_token() -> None:
    wrapped: list[tuple[int, object]] = [
        (401, {"error": "Received error from openai", "external_model_message": PROVIDER_401}),
        (403, {"error": "Received error from anthropic", "external_model_message": {"message": "forbidden"}}),
        (401, {"error_code": "UNAUTHENTICATED", "message": "Received error from cohere: invalid api token"}),
        (400, {"error": "Received error from openai", "external_model_message": PROVIDER_401}),
        (401, {"error": "Received error from openai", "external_model_message": "no key"}),
    ]
    for status, body in wrapped:
        error = judged(status, body)
        assert "the secret that the endpoint's configuration names" in error.hint, body
        assert "DATABRICKS_TOKEN" not in str(error), body
    own = judged(401, {"error_code": 401, "message": NO_CREDENTIAL})
    assert "DATABRICKS_TOKEN" in own.hint
    unknown = {"error": "Received error from openai", "external_model_message": {"message": "model not found"}}
    assert "does not know the model or deployment" in judged(404, unknown).hint


def test_a_feature_that_is_switched_off_is_explained() -> None:
    for status in (400, 403, 404):
        error = judged(status, {"error_code": "FEATURE_DISABLED", "message": "AI Gateway is not enabled."})
        assert "ask a workspace admin to enable it" in error.hint, status
        assert error.error_code == "FEATURE_DISABLED"


FOREIGN = [  # what other servers answer to a path of Databricks'
    b'{"detail":"Not Found"}',
    b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}',
    b"404 page not found",
    b"<html><title>404 Not Found</title></html>",
    b"",
]
URL = "http://127.0.0.1:8080/serving-endpoints/m/invocations"


def test_a_server_that_is_no_workspace_is_told_with_the_url_that_was_asked() -> None:
    def hint(status: int, body: bytes, headers: dict[str, str], url: str = URL) -> str:
        return status_error(Raw(status, headers, body), wall=WALL, url=url).hint

    for status in (404, 405, 501):
        for body in FOREIGN:
            said = hint(status, body, {"server": "uvicorn", "content-type": "application/json"})
            assert said.startswith(f"{URL} was asked, and the answer is none of Databricks'"), (status, body)
            assert "put it behind a workspace" in said
    for headers in ({"x-databricks-org-id": "1"}, {"x-request-id": "1"}, {"server": "databricks"}):
        assert hint(404, FOREIGN[0], headers) == errors.NotFoundError.next_step
    assert hint(404, b'{"error_code":"RESOURCE_DOES_NOT_EXIST"}', {}) == errors.NotFoundError.next_step
    app = "https://w.example.com/driver-proxy-api/o/0/c/7777"
    assert hint(404, FOREIGN[0], {}, app) == errors.NotFoundError.next_step  # the app's own answer
    assert hint(400, FOREIGN[0], {}) == errors.BadRequestError.next_step


def test_a_proxy_that_wants_a_password_is_told_apart_from_the_workspace() -> None:
    assert "proxy= or HTTPS_PROXY" in judged(407, b"").hint


def test_a_body_of_a_success_that_is_no_json_is_told_in_the_servers_words() -> None:
    for body, said in (
        (b"", "the answer is empty"),
        (b" \r\n", "the answer is empty"),
        (b"<!DOCTYPE html><title>Sign in to Databricks</title>", "the answer is an HTML page: Sign in to Databricks"),
        ("<html><body>Log\nin</body>".encode("utf-16"), "the answer is an HTML page: Log in"),
        (b"upstream OK", "the answer is not JSON, but: upstream OK"),
        (b"x" * 5000, "the answer is not JSON, but: " + "x" * 200),
    ):
        found = not_json(Raw(200, {}, body))
        assert found is not None
        assert found[0] == said
    for json_body in (
        b"{}",
        b"null",
        b"[]",
        b"0",
        b'""',
        b"false",
        '{"a": "\u00e9"}'.encode("utf-16"),
        b"\xef\xbb\xbf{}",
    ):
        assert not_json(Raw(200, {}, json_body)) is None, json_body


def test_html_is_told_without_its_tags() -> None:
    detail = judged(503, b"<!doctype html><body><script>var a</script><h1>Sorry</h1> &amp; bye</body>").detail
    assert "<" not in detail
    assert "var a" not in detail
    assert "Sorry" in detail


def test_a_redirect_is_told_without_its_query() -> None:
    error = judged(302, b"", {"location": "https://h/login.html?token=dapi-canary"})
    assert type(error) is APIStatusError
    assert "https://h/login.html" in str(error)
    assert "canary" not in str(error)
    assert "redirect" in str(error)


@pytest.mark.parametrize(
    ("headers", "detail", "expected"),
    [
        ({"x-request-id": "a"}, "[ReqId: b]", "a"),
        ({"x-databricks-request-id": "c"}, "", "c"),
        ({}, "Invalid access token. [ReqId: 1-2-3]", "1-2-3"),
        ({}, "no id", None),
        ({"x-request-id": ""}, "", None),
        ({}, "[ReqId: ]", None),
    ],
)
def test_the_request_id_is_found(headers: dict[str, str], detail: str, expected: str | None) -> None:
    assert request_id(headers, detail) == expected


def test_the_request_id_in_a_message_reaches_the_error() -> None:
    assert judged(401, {"error_code": 401, "message": NO_CREDENTIAL}).request_id == "8a6-1"


OPENAI = {
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-tokens": "6m0s",
}


def test_the_reset_of_a_limit_counts_on_a_429_alone_and_only_of_a_limit_that_is_used_up() -> None:
    for status in (500, 502, 503, 504, 529, 400, 409):
        assert status_error(Raw(status, OPENAI), wall=WALL).retry_after is None, status
        assert status_error(Raw(status, {**OPENAI, "retry-after": "2"}), wall=WALL).retry_after == 2.0, status
    for changed, expected in (
        ({}, None),
        ({"x-ratelimit-remaining-requests": "0"}, 1.0),
        ({"x-ratelimit-remaining-tokens": "0"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-remaining-requests": "0"}, 360.0),
        ({"x-ratelimit-remaining-requests": "-1"}, 1.0),
        ({"x-ratelimit-remaining-requests": ""}, 1.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-requests": "0", "retry-after": "7"}, 7.0),
        ({"x-ratelimit-remaining-requests": "0", "retry-after": "0"}, 1.0),
        ({"x-ratelimit-reset": "9", "x-ratelimit-remaining": "3"}, None),
        ({"x-ratelimit-reset": "9", "x-ratelimit-remaining": "0"}, 9.0),
        ({"x-ratelimit-reset": "9"}, 9.0),
    ):
        assert status_error(Raw(429, {**OPENAI, **changed}), wall=WALL).retry_after == expected, changed


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "3.5s"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "0"}, None),  # the usual pause stays
        ({"retry-after": "0", "retry-after-ms": "0", "x-ratelimit-reset": "0s"}, None),
        ({"retry-after-ms": "0", "retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "7", "x-ratelimit-reset-tokens": "1"}, 7.0),
        ({"retry-after": formatdate(WALL + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(WALL - 30, usegmt=True)}, None),
        ({"retry-after": formatdate(WALL, usegmt=True)}, None),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:30 -0000"}, 10.0),
        ({"x-ratelimit-reset-requests": "1", "x-ratelimit-reset-tokens": "4s"}, 4.0),
        ({"x-ratelimit-reset": str(int(WALL) + 12)}, 12.0),
        ({"x-ratelimit-reset": str(int(WALL) - 12)}, None),
        *(
            ({name: junk}, None)
            for name in ("retry-after", "retry-after-ms", "x-ratelimit-reset-tokens")
            for junk in (
                "-1",
                "nan",
                "inf",
                "-inf",
                "1e999",
                "",
                "garbage",
                "0x10",
                "1,5",
                "{}",
                "Tue, 99 Nov",
                "9" * 400,
            )
        ),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 +99999999"}, None),
        ({"retry-after": "Thu, 01 Jan 99999 00:00:00 GMT"}, None),
    ],
)
def test_what_the_server_asks_to_wait_is_read_in_every_form(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after(headers, wall=WALL) == expected


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ([RETRY_INFO], 3.5),
        ([{"@type": "x"}, RETRY_INFO], 3.5),
        ([{"retry_delay": "2s"}], 2.0),
        ([{"retry_delay": 2}], 2.0),
        ([{"retry_delay": None}], None),
        ([{"retry_delay": "nan"}], None),
        ([{"retry_delay": "-2s"}], None),
        ([{"retry_delay": {"seconds": []}}], None),
        (["text", None, 5], None),
    ],
)
def test_retry_info_in_the_body_is_read(details: list[Any], expected: float | None) -> None:
    assert judged(429, {"error_code": "RESOURCE_EXHAUSTED", "message": "m", "details": details}).retry_after == expected


@pytest.mark.parametrize("details", [None, {}, "text", 5, [[]]])
def test_details_of_another_shape_are_ignored(details: object) -> None:
    assert judged(429, {"error_code": "X", "message": "m", "details": details}).retry_after is None


@pytest.mark.parametrize(
    ("data", "code", "part"),
    [
        (b'{"error": "boom"}', "", "boom"),
        (b'{"error": {"message": "boom", "code": "c"}}', "c", "boom"),
        (b'{"error": {"message": "boom", "type": "server_error", "code": null}}', "server_error", "boom"),
        (b'{"error": {"message": "boom", "code": 429}}', "429", "boom"),
        (b'{"error_code": "RESOURCE_EXHAUSTED", "message": "boom"}', "RESOURCE_EXHAUSTED", "boom"),
        (b'{"error_code": 500, "message": "boom"}', "500", "boom"),
        (b'{"type": "error", "code": "c", "message": "boom", "sequence_number": 3}', "c", "boom"),
        (b'{"choices": [], "error": {"message": "boom"}}', "", "boom"),
        (b'{"error": "Received error from x", "external_model_message": {"message": "boom"}}', "", "boom"),
    ],
)
def test_an_error_inside_a_stream_is_recognised(data: bytes, code: str, part: str) -> None:
    frame = error_frame(Event(data))
    assert frame is not None
    assert frame[0] == code
    assert part in frame[1]


@pytest.mark.parametrize("data", [b"it broke", b'{"message": "it broke"}', b'{"error": "it broke"}'])
def test_an_event_named_error_is_one_whatever_it_holds(data: bytes) -> None:
    frame = error_frame(Event(data, "error"))
    assert frame is not None
    assert "it broke" in frame[1]


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"index":0,"delta":{"content":"an \\"error\\": oops"}}]}',
        b'{"choices":[{"index":0,"delta":{"content":"x"}}],"error":null}',
        b'{"choices":[{"index":0,"delta":{"content":"{\\"error\\": \\"boom\\"}"}}]}',
        b'{"choices":[],"error":null,"usage":{"prompt_tokens":1}}',
        b'"error"',
        b'"the word \\"error\\" in a driver app"',
        b'["error"]',
        b'{"error":null}',
        b'{"error":""}',
        b'{"error": "half',
        b"[DONE]",
        b"",
        b'{"type":"response.completed","response":{"error":null,"output":[]}}',
        b'{"type":"response.output_text.delta","delta":"\\"error\\""}',
        b'{"error_rate": 0.5, "choices": []}',
    ],
)
def test_a_usual_chunk_that_only_speaks_of_errors_is_none(data: bytes) -> None:
    assert error_frame(Event(data)) is None


HOSTILE = {
    "an endless tag": b"<html>" + b"<" * 300_000,
    "many titles": b"<html>" + b"<title>" * 60_000,
    "many open titles": b"<html>" + b"<title" * 60_000,
    "many scripts": b"<html>" + b"<script>" * 60_000,
    "many styles": b"<!doctype" + b"<style>a</ " * 60_000,
    "one word": b"A" * 1_000_000,
    "one word and a colon": b"A" * 1_000_000 + b": x",
    "blanks": b" " * 500_000 + b"x" + b" " * 500_000,
    "request ids": b'{"message":"' + b"[ReqId: " * 100_000 + b'"}',
    "deep list": b"[" * 200_000,
    "deep whole list": b"[" * 100_000 + b"]" * 100_000,
    "deep errors": b'{"error":' * 50_000 + b"1" + b"}" * 50_000,
    "deep providers": b'{"external_model_message":' * 3_000 + b"1" + b"}" * 3_000,
    "rather deep errors": b'{"error":' * 900 + b"1" + b"}" * 900,
    "deep message": b'{"message":' + b"[" * 900 + b"]" * 900 + b"}",
    "a huge number": b'{"error_code":' + b"9" * 100_000 + b"}",
    "a huge message": b'{"error_code":"X","message":"' + b"m" * 2_000_000 + b'"}',
    "entities": b"<html>" + b"&amp;" * 200_000,
    "zeros": b"\0" * 1_000_000,
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.timeout(20)
def test_a_hostile_body_becomes_an_error_at_once_and_a_short_one(body: bytes) -> None:
    began = time.thread_time()  # of this thread: a busy machine does not count
    error = judged(502, body)
    assert time.thread_time() - began < 2.0
    assert type(error) is errors.InternalServerError
    assert len(error.detail) < 5_000
    assert error.raw is not None
    assert error.raw.body == body


@pytest.mark.timeout(20)
def test_a_hostile_event_is_judged_at_once() -> None:
    for data in (b'{"error":' * 100_000, b'{"error":' + b"[" * 100_000, b'"error' + b"x" * 1_000_000):
        frame = error_frame(Event(data))  # no exception comes out
        assert frame is None or frame[1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "error_code", "message", "detail", "details", "code", "type", "external_model_message", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
BODY = st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()) | st.text().map(str.encode)


@settings(max_examples=150, deadline=None)
@given(
    status=st.integers(300, 599),
    body=BODY,
    headers=st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset-x", "location", "x-request-id"]),
        st.text(max_size=30),
    ),
)
def test_any_answer_becomes_a_typed_error(status: int, body: bytes, headers: dict[str, str]) -> None:
    error = status_error(Raw(status, headers, body), wall=WALL)
    assert isinstance(error, APIStatusError)
    assert error.status == status
    assert isinstance(error.error_code, str)
    assert error.retry_after is None or 0 <= error.retry_after < float("inf")
    assert str(error)
    assert status not in (400, 422) or isinstance(error, errors.BadRequestError)


@settings(max_examples=150, deadline=None)
@given(BODY, st.sampled_from(["", "error", "message"]))
def test_any_event_is_an_error_or_none(data: bytes, kind: str) -> None:
    frame = error_frame(Event(data, kind))
    assert frame is None or (isinstance(frame[0], str) and isinstance(frame[1], str))
    assert kind != "error" or frame is not None


@settings(max_examples=100, deadline=None)
@given(BODY)
def test_any_body_is_read_as_texts(body: bytes) -> None:
    code, detail, details = read_error(body)
    assert isinstance(code, str)
    assert isinstance(detail, str)
    assert isinstance(details, list)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("<html><script>if (a < b) x('<style>')</script>Sorry", "Sorry"),
        ("<html>A<style>p{}</style>B<SCRIPT src=x></SCRIPT>C", "A B C"),
        ("<html>A<script>never ends", "A"),
        ("<html><p a='1'\nb>A</p><br/>B<", "A B"),
        ("<html><title lang=en>A &lt; B</title>C", "A < B"),
        ("<html><title>unended", "unended"),
    ],
)
def test_a_page_is_told_by_its_title_or_its_text(page: str, said: str) -> None:
    assert read_error(page.encode())[1] == f"an HTML page: {said}"


@pytest.mark.parametrize("depth", [90, 190, 250, 900, 5_000, 100_000])
def test_json_is_read_to_a_depth_at_which_nothing_ends_in_a_recursion_error(depth: int) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"error":', b"}"), (b'{"external_model_message":[', b"]}")):
        text = opening * depth + b"1" + closing * depth
        assert (json_or_none(text) is not None) == (depth * len(closing) <= 200)
        assert judged(500, text).detail
    assert json_or_none(b"[" + b"[]," * depth + b"{}]") == [*([[]] * depth), {}]  # wide is not deep


def test_a_number_of_thousands_of_digits_in_the_place_of_a_code_is_an_error_like_others() -> None:
    """Python refuses to read such a number out of a text."""
    digits = "1" * 5000
    for inner in ({"code": digits}, {"code": "0", "type": digits}, {"type": "0", "scimType": digits}):
        error = answer_error(Raw(200, {}, json.dumps({"error": inner}).encode()))
        assert type(error) is errors.APIResponseError
    assert type(answer_error(Raw(200, {}, b'{"error": {"code": "0429"}}'))) is errors.RateLimitError
