"""What a row asks for: prompts, messages, templates, OpenAI Batch's shape; and what cannot be sent."""

from __future__ import annotations

from typing import Any

import pytest

from dbllm.bulk import RowInputError
from dbllm.bulk.requests import Template, request_of

HELLO = [{"role": "user", "content": "hello"}]


def test_a_row_becomes_what_its_verb_sends() -> None:
    record = {"a": 1, "b": "x"}
    for row, verb, content in (
        ("hello", "complete", "hello"),
        ({"prompt": "hello", "id": 3}, "complete", "hello"),
        ({"text": "hello"}, "complete", "hello"),
        ({"prompt": "yes", "text": "no"}, "complete", "yes"),
        ({"messages": HELLO}, "chat", HELLO),
        ({"prompt": "hello"}, "chat", "hello"),
        (HELLO, "chat", HELLO),
        ({"input": "hello"}, "respond", "hello"),
        ({"messages": HELLO}, "respond", HELLO),
        ({"input": ["a", "b"]}, "embed", ["a", "b"]),
        ({"text": "a"}, "embed", "a"),
        (record, "predict", {"dataframe_records": [record]}),
        ({"inputs": [[1, 2]]}, "predict", {"inputs": [[1, 2]]}),
        ({"dataframe_split": {"columns": ["a"], "data": [[1]]}}, "predict", None),
        ("hello", "predict", {"inputs": ["hello"]}),
    ):
        request = request_of(row, verb)
        assert request.verb == verb
        assert request.content == (row if content is None else content), row


def test_a_line_of_openais_batch_api_has_its_own_key_and_parameters() -> None:
    body = {"model": "m", "messages": HELLO, "max_tokens": 5, "temperature": 0}
    chat = request_of({"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": body}, "complete")
    assert (chat.verb, chat.content, chat.key) == ("chat", HELLO, "r-1")
    assert chat.params == {"max_tokens": 5, "temperature": 0}
    embed = request_of({"custom_id": 7, "url": "/v1/embeddings", "body": {"input": "a"}}, "complete")
    assert (embed.verb, embed.content, embed.key) == ("embed", "a", "7")
    respond = request_of({"custom_id": "x", "url": "/v1/responses", "body": {"input": "a"}}, "complete")
    assert (respond.verb, respond.content) == ("respond", "a")


def test_a_template_takes_columns_by_their_whole_name() -> None:
    row = {"text": "{sky}", "a.b": 1, "n": 2.5, "list": [1, "ü"], "x:y": "z", "none": None}
    for text, filled in (
        ("Say: {text}!", "Say: {sky}!"),
        ("{a.b} {n}", "1 2.5"),
        ("{list}", '[1, "ü"]'),
        ("{x:y}", "z"),
        ("{{text}}", "{text}"),
        ("no column", "no column"),
    ):
        assert Template(text).fill(row) == filled
    assert request_of("blue", "complete", Template("The sky is {colour}.")).content == "The sky is blue."
    with pytest.raises(RowInputError, match=r"column 'tex' .* is missing; the row's columns: text, a\.b"):
        Template("{tex}").fill(row)
    with pytest.raises(RowInputError, match=r"column 'none' .* is empty"):
        Template("{none}").fill(row)
    for broken in ("{text", "text}", "{}"):
        with pytest.raises(ValueError, match="the prompt template"):
            Template(broken)


def test_a_row_that_cannot_be_sent_says_what_it_lacks() -> None:
    for row, verb, why in (
        ({"a": 1}, "complete", "needs a column 'prompt' or 'text', or a prompt template; the row's columns: a"),
        ({}, "chat", "the row's columns: none"),
        ({"prompt": 3}, "complete", "sends a text, and got int"),
        ({"messages": []}, "chat", "cannot send an empty list"),
        (["a"], "complete", "sends a text, and got list"),
        (b"bytes", "chat", "sends a text or a list, and got bytes"),
        (None, "complete", "sends a text, and got NoneType"),
    ):
        with pytest.raises(RowInputError, match=why):
            request_of(row, verb)
    with pytest.raises(RowInputError, match="needs a row with columns, got list"):
        request_of([1], "complete", Template("{a}"))
    for line in ({"custom_id": "a", "body": {"prompt": "hi"}}, {"url": "/v1/embeddings", "body": {"input": "hi"}}):
        with pytest.raises(RowInputError, match="body says what is sent: leave out the prompt template"):
            request_of(line, "complete", Template("{body}"))


def test_equal_requests_have_equal_fingerprints() -> None:
    def fingerprint(row: Any, verb: str = "chat") -> bytes:
        return request_of(row, verb).fingerprint()

    assert fingerprint({"messages": HELLO, "id": 1}) == fingerprint(
        {"id": 2, "messages": [dict(reversed(HELLO[0].items()))]}
    )
    different = ["hello", "hello ", {"messages": HELLO}, {"custom_id": 1, "body": {"messages": HELLO, "max_tokens": 1}}]
    assert len({fingerprint(row) for row in different} | {fingerprint("hello", "complete")}) == 5


class NAType:
    """As pandas' missing value: no comparison of it is true or false."""

    def __ne__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


def test_what_pandas_has_for_nothing_is_nothing() -> None:
    for nothing in (None, float("nan"), NAType()):
        with pytest.raises(RowInputError, match="'text' of the prompt template is empty"):
            request_of({"text": nothing}, "chat", Template("Say {text}"))
        assert request_of({"messages": nothing, "text": "hello"}, "chat").content == "hello"
        with pytest.raises(RowInputError, match="chat needs a column"):
            request_of({"text": nothing}, "chat")
