"""The error tree: what its docstring draws is what there is, and everything in it can cross processes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

import dbllm
from dbllm import errors
from dbllm._protocol import error_responses
from dbllm.errors import APIError, DbllmError, Raw

RAW = Raw(429, {"x-request-id": "req-1", "retry-after": "2"}, b'{"error_code":"X","message":"slow down"}')
API_ERRORS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, APIError) and value.__module__ == errors.__name__
]
LEAVES = [kind for kind in API_ERRORS if not kind.__subclasses__()]


def drawn_tree() -> dict[str, str]:
    """Child → parent, read from the picture in the module's docstring."""
    parents: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"([ │├└─]*)([A-Z]\w+(?:Error|Warning))\b", line):
            column, name = len(match.group(1)), match.group(2)
            if not path and column != 4:
                continue
            while path and path[-1][0] >= column:
                path.pop()
            if path:
                parents[name] = path[-1][1]
            path.append((column, name))
        elif path and not line.strip():
            break
    return parents


def real_tree() -> dict[str, str]:
    return {
        value.__name__: value.__bases__[0].__name__
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, DbllmError) and value is not DbllmError
    }


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert drawn_tree() == real_tree()
    assert len(drawn_tree()) == 16


def test_every_error_class_has_one_parent_and_is_exported() -> None:
    for name in real_tree():
        kind = getattr(errors, name)
        assert len(kind.__bases__) == 1
        assert getattr(dbllm, name) is kind
        assert name in dbllm.__all__


def test_the_drawn_statuses_are_the_ones_that_judge_gives() -> None:
    drawn = {
        name: [int(number) for number in re.findall(r"\d{3}", statuses)]
        for name, statuses in re.findall(r"(\w+Error) +((?:\d{3}(?:, )?)+|5xx)\n", errors.__doc__ or "")
    }
    drawn["InternalServerError"] = [500, 501, 502, 503, 504, 529, 599]
    assert len(drawn) == 8
    for name, statuses in drawn.items():
        for status in statuses:
            assert type(error_responses.status_error(Raw(status), wall=0.0)).__name__ == name, status


def full(kind: type[APIError]) -> APIError:
    error = kind(
        "the queue is full",
        hint="Wait a little.",
        status=429,
        error_code="REQUEST_LIMIT_EXCEEDED",
        request_id="req-1",
        attempts=3,
        retry_after=2.5,
        raw=RAW,
        sent=False,
    )
    error.previous = (kind("the first failure"),)
    if isinstance(error, dbllm.StreamInterruptedError):
        error.partial_text, error.usage = "Once upon", dbllm.Usage(prompt_tokens=3)
    return error


def state(error: BaseException) -> dict[str, object]:
    return {
        "type": type(error),
        "args": error.args,
        "str": str(error),
        **{name: repr(value) for name, value in vars(error).items()},
        **({"raw": error.raw} if isinstance(error, APIError) else {}),
        **({"headers": dict(error.raw.headers)} if isinstance(error, APIError) and error.raw else {}),
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", API_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling_with_all_it_knows(kind: type[APIError], protocol: int) -> None:
    error = full(kind)
    assert state(pickle.loads(pickle.dumps(error, protocol))) == state(error)


@pytest.mark.parametrize("kind", API_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_survives_copying_with_all_it_knows(kind: type[APIError]) -> None:
    error = full(kind)
    assert state(copy.deepcopy(error)) == state(error)
    assert state(copy.copy(error)) == state(error)


def test_an_error_that_was_made_bare_pickles_too() -> None:
    for kind in (*API_ERRORS, dbllm.ConfigError, DbllmError):
        error = kind("why")
        twin = pickle.loads(pickle.dumps(error))
        assert (type(twin), str(twin)) == (kind, str(error))


def test_a_config_error_pickles() -> None:
    twin = pickle.loads(pickle.dumps(dbllm.ConfigError("no host")))
    assert str(twin) == "no host"


@pytest.mark.parametrize("kind", API_ERRORS, ids=lambda kind: kind.__name__)
def test_a_bare_error_has_every_attribute(kind: type[APIError]) -> None:
    error = kind("it broke")
    assert (error.status, error.error_code, error.request_id, error.retry_after) == (None, "", None, None)
    assert (error.attempts, error.previous, error.raw, error.sent) == (1, (), None, True)
    assert error.detail == "it broke"
    assert error.message.startswith("it broke.")
    assert str(error) == error.message


def test_an_interrupted_stream_has_its_parts_even_when_none_were_given() -> None:
    error = dbllm.StreamInterruptedError("cut")
    assert (error.partial_text, error.usage) == ("", None)


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_leaf_says_what_to_do_next(kind: type[APIError]) -> None:
    assert kind.next_step.endswith(".")
    assert kind.next_step[0].isupper()
    assert kind("why").message == f"why. {kind.next_step}"


def test_a_hint_of_the_occasion_takes_the_place_of_the_general_one() -> None:
    error = dbllm.NotFoundError("no such endpoint", hint="Did you mean 'dolly'?")
    assert error.message == "no such endpoint. Did you mean 'dolly'?"
    assert dbllm.NotFoundError.next_step not in str(error)


def test_a_status_without_a_class_of_its_own_is_still_an_api_status_error() -> None:
    error = error_responses.status_error(Raw(418, {}, b"short and stout"), wall=0.0)
    assert type(error) is dbllm.APIStatusError
    assert "short and stout" in str(error)


def test_the_text_has_status_code_request_id_and_attempts() -> None:
    text = str(full(dbllm.RateLimitError))
    assert text.startswith("HTTP 429 REQUEST_LIMIT_EXCEEDED (request req-1, 3 attempts): the queue is full.")
    assert text.endswith("Wait a little.")


def test_a_code_that_only_repeats_the_status_is_not_said_twice() -> None:
    assert str(dbllm.AuthenticationError("no", status=401, error_code="401")).startswith("HTTP 401: no.")


def test_status_comes_from_the_answer_where_it_is_not_given() -> None:
    assert dbllm.RateLimitError("x", raw=RAW).status == 429
    assert dbllm.RateLimitError("x", raw=RAW, status=503).status == 503


@pytest.mark.parametrize(("detail", "said"), [("a", "a."), ("a.", "a."), ("a!", "a!"), ("a?", "a?"), ("  a ", "a.")])
def test_the_detail_ends_as_a_sentence(detail: str, said: str) -> None:
    assert APIError(detail, hint="Next.").message == f"{said} Next."


def test_without_any_detail_the_message_is_the_next_step() -> None:
    assert dbllm.APITimeoutError().message == dbllm.APITimeoutError.next_step


def test_raw_keeps_headers_and_body_out_of_its_repr() -> None:
    raw = Raw(200, {"authorization": "Bearer dapi-canary"}, b"dapi-canary")
    assert "canary" not in repr(raw)
    assert "canary" not in repr([dbllm.APIResponseError("x", raw=raw)])


def test_raw_text_replaces_what_is_not_utf8() -> None:
    assert Raw(200, {}, b"caf\xc3\xa9 \xff").text == "café \ufffd"


def test_raw_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        RAW.status = 200  # type: ignore[misc]


def test_one_except_catches_all() -> None:
    for name in real_tree():
        assert issubclass(getattr(errors, name), DbllmError)
