"""What comes back, without loss; and a stream's pieces put together."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from dbllm import (
    APIResponseError,
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    Embeddings,
    Message,
    Predictions,
    PromptRequest,
    Raw,
    Usage,
)
from dbllm._protocol import models
from dbllm._protocol.reply import CallInfo
from dbllm._protocol.responses import answer_text, first_error, parse, text_chunk
from dbllm._protocol.streams import assemble_chat

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1732000000,
    "model": "gpt-4-0613",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello!", "tool_calls": [CALL], "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 9,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 0},
    },
    "databricks_output": {"databricks_request_id": "d-1", "trace": {"info": [1, 2.5, None, True]}},
}
COMPLETION: dict[str, Any] = {
    "id": "c1",
    "object": "text_completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "text": "Good", "finish_reason": "length", "logprobs": None}],
    "usage": {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
}
EMBEDDINGS: dict[str, Any] = {
    "id": "e1",
    "object": "list",
    "model": "bge-large-en-v1.5",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -1e-9, 3.0]}],
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
}
ITEMS = [
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm", "signature": "s"}]},
    {"type": "text", "text": "Hi "},
    {"type": "image", "image_url": "data:x"},
    {"type": "text", "text": "there"},
]


def chat(content: Any = "Hello!", **changes: Any) -> dict[str, Any]:
    body = copy.deepcopy(CHAT)
    body["choices"][0]["message"]["content"] = content
    body.update(changes)
    return body


def without(body: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in keys}


BARE_CHOICE = {"message": {"role": "assistant", "content": "x"}}
BODIES: list[tuple[str, type[Any], dict[str, Any]]] = [
    ("chat", ChatCompletion, CHAT),
    ("chat with null content", ChatCompletion, chat(None)),
    ("chat with a list", ChatCompletion, chat(ITEMS)),
    ("chat without usage", ChatCompletion, without(CHAT, "usage")),
    ("chat with null usage", ChatCompletion, chat(usage=None)),
    ("chat with nulls in usage", ChatCompletion, chat(usage={"prompt_tokens": None, "total_tokens": 5})),
    ("chat of two", ChatCompletion, chat(choices=[CHAT["choices"][0], {**CHAT["choices"][0], "index": 1}])),
    ("chat with the least", ChatCompletion, {"choices": [BARE_CHOICE]}),
    ("chat with null everywhere", ChatCompletion, chat(id=None, object=None, created=None, model=None, usage=None)),
    (
        "chat with arguments as an object",
        ChatCompletion,
        {
            "choices": [
                {
                    "message": {
                        "role": "assistant",
                        "tool_calls": [
                            {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
                        ],
                    }
                }
            ]
        },
    ),
    ("chat with our names", ChatCompletion, chat(request_id="theirs", attempts=9, raw="x", text="t", model_dump=1)),
    ("completion", Completion, COMPLETION),
    ("completion without finish_reason", Completion, {"choices": [{"text": "x"}]}),
    ("embeddings", Embeddings, EMBEDDINGS),
    ("embeddings without index", Embeddings, {"data": [{"embedding": [1.0]}]}),
    ("predictions: rows", Predictions, {"predictions": ["Good"]}),
    ("predictions: text", Predictions, {"predictions": "Good"}),
    ("predictions: number", Predictions, {"predictions": 0.5}),
    ("predictions: columns", Predictions, {"predictions": {"a": [1, 2]}, "databricks_output": {"x": 1}}),
    ("predictions: tensor", Predictions, {"predictions": [[0.1, 0.2], [0.3, 0.4]]}),
    ("predictions: null", Predictions, {"predictions": None}),
    ("prompt", PromptRequest, {"prompt": "p", "stop": ["."], "temperature": 0.1}),
    ("chunk", ChatCompletionChunk, {"id": "c", "choices": [{"index": 0, "delta": {"content": "x"}}], "usage": None}),
    ("chunk without choices", ChatCompletionChunk, {"choices": [], "usage": {"prompt_tokens": 1}}),
    ("chunk of nothing", ChatCompletionChunk, {}),
    ("message", Message, {"role": "tool", "content": "1", "tool_call_id": "call_1", "name": "f"}),
    ("unicode", Message, {"role": "user", "content": "\u2028 \U0001f600 \0"}),
]


@pytest.mark.parametrize(("model", "body"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES])
def test_nothing_on_the_wire_is_lost(model: type[Any], body: dict[str, Any]) -> None:
    reply = model.model_validate_json(json.dumps(body))
    assert reply.model_dump(exclude_unset=True) == body
    assert json.loads(reply.model_dump_json(exclude_unset=True)) == body
    whole = json.loads(reply.model_dump_json())
    assert {key: whole[key] for key in body} == {
        **body,
        **{key: whole[key] for key in ("choices", "usage", "data") if key in body},
    }


def test_a_large_integer_is_not_rounded() -> None:
    body = {"predictions": [2**70, 1732000000000]}
    assert Predictions.model_validate_json(json.dumps(body)).predictions == body["predictions"]


META = CallInfo(Raw(200, {"x-request-id": "req-1"}, b"{}"), 3)


@pytest.mark.parametrize(
    "reply",
    [
        ChatCompletion.model_validate(CHAT),
        Completion.model_validate(COMPLETION),
        Embeddings.model_validate(EMBEDDINGS),
        Predictions(predictions=[1]),
    ],
    ids=lambda reply: type(reply).__name__,
)
def test_what_we_know_of_the_call_stays_out_of_the_dump(reply: Any) -> None:
    reply = copy.deepcopy(reply)
    before = reply.model_dump(), reply.model_dump_json()
    assert (reply.request_id, reply.attempts, reply.raw) == (None, 1, None)
    reply._call = META
    assert (reply.request_id, reply.attempts, reply.raw) == ("req-1", 3, META.raw)
    assert (reply.model_dump(), reply.model_dump_json()) == before


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_reply_pickles_with_what_we_know_of_its_call(protocol: int) -> None:
    reply = ChatCompletion.model_validate(CHAT)
    reply._call = META
    twin = pickle.loads(pickle.dumps(reply, protocol))
    assert twin == reply
    assert twin.model_dump() == reply.model_dump()
    assert (twin.request_id, twin.attempts, twin.raw) == ("req-1", 3, META.raw)
    assert copy.deepcopy(reply).request_id == "req-1"


def test_replies_are_equal_when_they_say_the_same() -> None:
    assert ChatCompletion.model_validate(CHAT) == ChatCompletion.model_validate_json(json.dumps(CHAT))
    assert ChatCompletion.model_validate(CHAT) != ChatCompletion.model_validate(chat("Bye"))


def test_a_field_of_theirs_that_is_named_like_ours_does_not_replace_it() -> None:
    reply = ChatCompletion.model_validate(chat(request_id="theirs", text="theirs"))
    assert reply.request_id is None
    assert reply.text == "Hello!"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hello!", "Hello!"),
        ("", ""),
        (None, ""),
        ([], ""),
        (ITEMS, "Hi there"),
        ([{"type": "output_text", "text": "a", "annotations": []}], "a"),
        ([{"type": "text", "text": None}, {"type": "text"}, None, 5], ""),
    ],
)
def test_the_text_of_a_chat(content: Any, text: str) -> None:
    reply = ChatCompletion.model_validate(chat(content))
    assert reply.text == text
    assert reply.message.text == text
    assert reply.message.content == content


def test_a_chat_gives_its_parts() -> None:
    reply = ChatCompletion.model_validate(CHAT)
    assert reply.finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == 18
    assert reply.message.tool_calls is not None
    function = reply.message.tool_calls[0].function
    assert function is not None
    assert (function.name, function.arguments) == ("f", "{}")


def test_a_missing_finish_reason_is_none() -> None:
    assert ChatCompletion.model_validate({"choices": [BARE_CHOICE]}).finish_reason is None
    assert Completion.model_validate({"choices": [{"text": "x"}]}).finish_reason is None


@pytest.mark.parametrize("model", [ChatCompletion, Completion])
def test_an_answer_without_choices_is_an_error_and_no_empty_text(model: Any) -> None:
    with pytest.raises((APIResponseError, ValidationError), match=r"(?i)choices"):
        model.model_validate({"choices": []}).text  # noqa: B018
    with pytest.raises((APIResponseError, ValidationError), match=r"(?i)choices"):
        model.model_validate({"object": "x"}).text  # noqa: B018


def test_an_assistant_message_goes_back_as_it_came() -> None:
    sent = ChatCompletion.model_validate(CHAT).message.as_wire()
    assert sent == CHAT["choices"][0]["message"]
    assert Message(role="user", content="x").as_wire() == {"role": "user", "content": "x"}
    assert Message(content="x").as_wire() == {"role": "assistant", "content": "x"}
    assert Message(role="tool", content="1", tool_call_id="c").as_wire() == {  # type: ignore[call-arg]
        "role": "tool",
        "content": "1",
        "tool_call_id": "c",
    }


@pytest.mark.parametrize(
    ("places", "expected"),
    [([0, 1, 2], [0, 1, 2]), ([2, 0, 1], [1, 2, 0]), ([None, None, None], [0, 1, 2]), ([1, 0, None], [1, 0, 2])],
)
def test_vectors_come_in_the_order_of_the_texts(places: list[int | None], expected: list[int]) -> None:
    data = [
        {"embedding": [float(number)], **({} if place is None else {"index": place})}
        for number, place in enumerate(places)
    ]
    assert Embeddings.model_validate({"data": data}).vectors == [[float(number)] for number in expected]


def test_embeddings_are_looped_over_as_the_vectors_in_the_order_of_the_texts() -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, 2.0)).decode()
    reply = Embeddings.model_validate({"data": [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": packed}]})
    assert [*reply] == reply.vectors == [[0.5, 2.0], [1.0]]
    assert dict(zip(["a", "b"], reply, strict=True)) == {"a": [0.5, 2.0], "b": [1.0]}
    assert len(reply) == 2
    assert [1.0] in reply
    assert [3.0] not in reply
    for another in (copy.copy(reply), copy.deepcopy(reply), pickle.loads(pickle.dumps(reply)), reply.model_copy()):
        assert another == reply
        assert [*another] == [*reply]


def test_predictions_are_looped_over_as_rows_where_they_are_a_list() -> None:
    for rows in ([], [1, 2], [{"a": 1}], [[1.0], [2.0]], ["a"]):
        reply = Predictions(predictions=rows)
        assert [*reply] == rows
        assert len(reply) == len(rows)
    for other in ({"a": [1, 2]}, "text", 0.5, None):
        for use in (list, len, iter):
            with pytest.raises(
                TypeError, match=rf"holds {type(other).__name__} here and no list: use reply.predictions"
            ):
                use(Predictions(predictions=other))


def test_a_reply_is_true_whatever_it_holds() -> None:
    replies = [ChatCompletion.model_validate(CHAT), Predictions(predictions=[]), Predictions(predictions={})]
    assert all([*replies, Embeddings(data=[]), Message(content=""), Usage()])


def test_a_part_of_a_reply_is_still_a_dict_by_dict() -> None:
    assert dict(Message(role="user", content="hi")) == {"role": "user", "content": "hi", "tool_calls": None}
    assert dict(Usage(total_tokens=5, more=6))["more"] == 6  # type: ignore[call-arg]


def test_a_field_of_no_name_here_is_read_and_a_missing_one_is_missed_as_python_does() -> None:
    reply = ChatCompletion.model_validate(CHAT)
    assert reply.databricks_output["databricks_request_id"] == "d-1"  # type: ignore[attr-defined]
    assert getattr(reply.message, "reasoning_content", 5) == 5
    assert not hasattr(reply.choices[0], "delta")
    assert not hasattr(reply, "_ipython_display_")


@pytest.mark.parametrize(
    ("predictions", "first"), [(["a", "b"], "a"), ("a", "a"), ({"a": [1]}, {"a": [1]}), (0.5, 0.5)]
)
def test_the_first_prediction(predictions: Any, first: Any) -> None:
    assert Predictions(predictions=predictions).first == first


def test_no_prediction_at_all_is_an_error() -> None:
    with pytest.raises(APIResponseError, match="no predictions"):
        Predictions(predictions=[]).first  # noqa: B018


def test_a_prompt_request_is_strict_and_keeps_its_parameters() -> None:
    request = PromptRequest.model_validate({"prompt": "p", "stop": ["."], "temperature": 0.1})
    assert (request.prompt, request.stop, request.params) == ("p", ["."], {"temperature": 0.1})
    assert PromptRequest.model_validate({"prompt": ""}).stop is None
    for body in ({}, {"prompt": 5}, {"prompt": None}, {"prompt": ["p"]}, {"prompt": "p", "stop": "."}):
        with pytest.raises(ValidationError):
            PromptRequest.model_validate(body)
    with pytest.raises(ValidationError):
        PromptRequest.model_validate({"prompt": "p", "stop": [1]})


def test_a_flaw_is_told_with_its_place_and_without_the_value() -> None:
    with pytest.raises(ValidationError) as caught:
        ChatCompletion.model_validate({"choices": [{"message": {"role": "assistant", "content": {"x": "canary"}}}]})
    flaw = first_error(caught.value)
    assert flaw.startswith("choices.0.message.content")
    assert "canary" not in flaw


SHAPES: list[tuple[Any, str | None]] = [
    ("a", "a"),
    ("", ""),
    (["a", "b"], "a"),
    ([["a"]], "a"),
    ([{"choices": [{"text": "a"}]}], "a"),
    (CHAT, "Hello!"),
    (chat(ITEMS), "Hi there"),
    (chat(None), ""),
    (COMPLETION, "Good"),
    ({"candidates": [{"text": "a", "metadata": {}}]}, "a"),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "id": "1"}]}, "a"),
    (
        {
            "object": "response",
            "output": [
                {"type": "reasoning", "summary": []},
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "a", "annotations": []}],
                },
                {"type": "function_call", "name": "f", "arguments": "{}"},
                {"type": "message", "content": [{"type": "output_text", "text": "b"}]},
            ],
        },
        "ab",
    ),
    ([], None),
    ({}, None),
    (None, None),
    (5, None),
    (True, None),
    ({"choices": []}, None),
    ({"choices": [5]}, None),
    ({"choices": [{"text": None}]}, None),
    ({"messages": []}, None),
    ({"choices": "x", "messages": 5, "output": None}, None),
    ({"something": "else"}, None),
]


@pytest.mark.parametrize(("answer", "text"), SHAPES)
def test_the_text_of_any_answer(answer: Any, text: str | None) -> None:
    assert answer_text(answer) == text


def usage(*numbers: int) -> Usage:
    return Usage(**dict(zip(("prompt_tokens", "completion_tokens", "total_tokens"), numbers, strict=True)))


@pytest.mark.parametrize(
    ("piece", "text", "finish"),
    [
        ("a", "a", None),
        (None, "", None),
        ({"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}, "a", "stop"),
        ({"choices": [{"index": 0, "delta": {"content": "a"}}]}, "a", None),
        ({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}, "", None),
        ({"choices": [{"index": 0, "delta": {"content": None}, "finish_reason": "stop"}]}, "", "stop"),
        ({"choices": [{"index": 0, "delta": {"content": [{"type": "text", "text": "a"}]}}]}, "a", None),
        ({"choices": [{"index": 1, "delta": {"content": "other"}}]}, "", None),
        ({"choices": []}, "", None),
        (CHAT, "Hello!", "stop"),
        (COMPLETION, "Good", "length"),
        ({"delta": {"role": "assistant", "content": "a", "id": "1"}}, "a", None),
        ({"delta": {"content": None}}, "", None),
        ({"type": "response.output_text.delta", "item_id": "i", "delta": "a"}, "a", None),
        (
            {
                "type": "response.output_item.done",
                "item": {"type": "message", "content": [{"type": "output_text", "text": "again"}]},
            },
            "",
            None,
        ),
        ({"type": "response.function_call_arguments.delta", "delta": "{}"}, "", None),
        ({"type": "response.reasoning_summary_text.delta", "delta": "hm"}, "", None),
        ({"type": "response.completed", "response": {}}, "", "stop"),
        ({"type": "response.incomplete", "response": {"usage": None}}, "", "length"),
        ({"type": "responses.completed"}, "", "stop"),
        ({"predictions": ["a"]}, "a", None),
        ({"predictions": "a"}, "a", None),
        ({"trace_id": "tr-1"}, "", None),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "a", None),
    ],
)
def test_the_text_of_any_piece(piece: Any, text: str, finish: str | None) -> None:
    chunk = text_chunk(piece)
    assert isinstance(chunk, CompletionChunk)
    assert (chunk.text, chunk.finish_reason) == (text, finish)


@pytest.mark.parametrize("response", [None, 5, "x", [], {"usage": 5}, {"usage": None}, {"usage": []}])
def test_an_odd_end_of_a_response_is_an_end(response: Any) -> None:
    chunk = text_chunk({"type": "response.completed", "response": response})
    assert (chunk.text, chunk.finish_reason, chunk.usage) == ("", "stop", None)


def test_the_usage_of_a_response_has_the_usual_names() -> None:
    counted = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "input_tokens_details": {"cached_tokens": 1}}
    found = text_chunk({"type": "response.completed", "response": {"usage": counted}}).usage
    assert found is not None
    assert (found.prompt_tokens, found.completion_tokens, found.total_tokens) == (3, 4, 7)
    assert found.model_dump()["input_tokens_details"] == {"cached_tokens": 1}


def test_the_usage_and_the_rest_of_a_chunk_are_kept() -> None:
    chunk = text_chunk({"id": "c", "model": "m", "choices": [], "usage": {"prompt_tokens": 1}, "x": 1})
    assert chunk.usage is not None
    assert chunk.usage.prompt_tokens == 1
    assert chunk.model_dump(exclude_unset=True)["x"] == 1


# --- a whole answer from its pieces -----------------------------------------------------------------------------------


def piece(delta: Any, index: int = 0, finish: str | None = None, **more: Any) -> ChatCompletionChunk:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return ChatCompletionChunk.model_validate({**head, "choices": [choice], **more})


def message_of(*pieces: ChatCompletionChunk) -> dict[str, Any]:
    (choice,) = assemble_chat(pieces).model_dump(exclude_unset=True)["choices"]
    return dict(choice["message"])


def test_pieces_of_text_are_joined_and_the_head_is_kept() -> None:
    whole = assemble_chat([piece({"role": "assistant", "content": "Hel"}), piece({"content": "lo"}, finish="stop")])
    assert whole.model_dump(exclude_unset=True) == {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    }


def test_the_last_usage_counts_and_is_never_summed() -> None:
    whole = assemble_chat(
        [
            piece({"content": "a"}, usage={"prompt_tokens": 11, "completion_tokens": 1, "total_tokens": 12}),
            piece({"content": "b"}, usage={"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}),
            piece({}, finish="stop", usage=None),
        ]
    )
    assert whole.usage == usage(11, 2, 13)


def test_usage_in_a_last_chunk_without_choices_is_kept() -> None:
    last = ChatCompletionChunk.model_validate({"choices": [], "usage": {"prompt_tokens": 1}})
    whole = assemble_chat([piece({"content": "a"}), last])
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 1
    assert whole.text == "a"


def test_tool_calls_in_pieces_are_merged_by_index() -> None:
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    second = {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "[1"}}
    message = message_of(
        piece({"role": "assistant", "content": None, "tool_calls": [first]}),
        piece({"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]}),
        piece({"tool_calls": [second]}),
        piece(
            {
                "tool_calls": [
                    {"index": 1, "function": {"arguments": "]"}},
                    {"index": 0, "function": {"arguments": ":1}"}},
                ]
            }
        ),
        piece({}, finish="tool_calls"),
    )
    assert message == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "[1]"}},
        ],
    }


def test_names_that_are_repeated_on_every_piece_are_not_doubled() -> None:
    call = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "1"}}
    message = message_of(
        piece({"role": "assistant", "tool_calls": [call]}), piece({"role": "assistant", "tool_calls": [call]})
    )
    assert message["role"] == "assistant"
    assert message["tool_calls"] == [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "11"}}]


def test_whole_tool_calls_without_an_index_stay_apart() -> None:
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in "ab"]
    assert message_of(*(piece({"tool_calls": [call]}) for call in calls))["tool_calls"] == calls


def test_several_answers_are_kept_apart_in_their_order() -> None:
    whole = assemble_chat(
        [
            piece({"content": "b"}, 1),
            piece({"content": "a"}, 0),
            piece({"content": "d"}, 1, "length"),
            piece({"content": "c"}),
        ]
    )
    assert [(choice.index, choice.message.text, choice.finish_reason) for choice in whole.choices] == [
        (0, "ac", None),
        (1, "bd", "length"),
    ]


def test_unknown_fields_of_pieces_are_kept() -> None:
    message = message_of(
        piece({"content": "a", "reasoning_content": "x", "flag": True}),
        piece({"content": "b", "reasoning_content": "y"}),
    )
    assert message == {"role": "assistant", "content": "ab", "reasoning_content": "xy", "flag": True}


def test_log_probabilities_of_pieces_are_lined_up() -> None:
    chunks = [
        ChatCompletionChunk.model_validate(
            {"choices": [{"index": 0, "delta": {"content": token}, "logprobs": {"content": [{"token": token}]}}]}
        )
        for token in "ab"
    ]
    whole = assemble_chat(chunks).model_dump(exclude_unset=True)
    assert whole["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}


@pytest.mark.parametrize(
    ("deltas", "text"),
    [
        ([[{"type": "text", "text": "a"}], [{"type": "text", "text": "b"}]], "ab"),
        ([[{"type": "text", "text": "a", "index": 0}], [{"type": "text", "text": "b", "index": 0}]], "ab"),
        ([[{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}], "a", "b"], "ab"),
        (["a", [{"type": "text", "text": "b"}], "c"], "abc"),
        (["a", None, "b", ""], "ab"),
        ([None, None], ""),
        (["", [{"type": "text", "text": "a"}]], "a"),
        ([[5, None], [{"type": "text", "text": "b", "index": 0}]], "b"),
        ([], ""),
    ],
)
def test_content_in_pieces_of_any_form_reads_the_same(deltas: list[Any], text: str) -> None:
    chunks = [piece({"content": content}) for content in deltas]
    assert "".join(chunk.text for chunk in chunks) == text
    if chunks:
        assert assemble_chat(chunks).text == text


def test_to_put_pieces_together_changes_none_of_them() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "1"}}
    chunks = [piece({"content": [{"type": "text", "text": "a", "index": 0}], "tool_calls": [call]}) for _ in range(3)]
    before = [chunk.model_dump_json() for chunk in chunks]
    first = assemble_chat(chunks)
    assert assemble_chat(chunks) == first
    assert [chunk.model_dump_json() for chunk in chunks] == before


def seconds(deltas: list[Any]) -> float:
    chunks = [piece({"content": content}) for content in deltas]
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        assemble_chat(chunks)
        best = min(best, time.process_time() - began)
    return best


@pytest.mark.parametrize("content", ["ab", [{"type": "text", "text": "ab"}]], ids=["text", "list"])
def test_twice_the_pieces_take_about_twice_the_time(content: Any) -> None:
    for _ in range(4):
        ratio = seconds([content] * 3000) / seconds([content] * 1500)
        if ratio <= 2.6:
            return
    pytest.fail(f"twice the pieces took {ratio:.1f} times the time")


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (ChatCompletion, {"id": None, "choices": [{"index": None, "message": {"role": None, "content": "x"}}]}),
        (ChatCompletion, {"id": 5, "choices": [{"message": {"content": "x"}}]}),
        (Completion, {"choices": [{"index": None, "text": "x", "finish_reason": None}]}),
        (ChatCompletionChunk, {"choices": [{"index": None, "delta": {"content": "x"}}]}),
        (ChatCompletionChunk, {"choices": [{"delta": {"content": "x"}}, {"index": 1, "delta": None}]}),
        (CompletionChunk, {"choices": [{"text": "x"}, {"index": 1, "text": None, "finish_reason": "stop"}]}),
    ],
)
def test_a_null_where_a_plain_value_belongs_counts_as_left_out(model: Any, body: dict[str, Any]) -> None:
    assert parse(model, json.dumps(body).encode()).text == "x"


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"5", b'"x"', b"{", b"\xff", b"[" * 100_000, b'{"choices":5}', b"NaN"]
)
def test_what_is_no_answer_is_a_validation_error(data: bytes) -> None:
    with pytest.raises(ValidationError):
        parse(ChatCompletion, data)


def test_no_model_is_built_by_importing(script: Callable[..., str]) -> None:
    code = """
import dbllm
from dbllm._protocol import models as module
models = [m for m in vars(module).values() if isinstance(m, type) and issubclass(m, module.WireModel)]
assert len(models) > 15
built = [m.__name__ for m in models if m.__pydantic_complete__ and m.model_fields]
print(built)
dbllm.Embeddings.model_validate({"data": []})
assert dbllm.Embeddings.__pydantic_complete__ and not dbllm.ChatCompletion.__pydantic_complete__
"""
    assert script(code).strip() == "[]"


def test_every_model_keeps_what_it_does_not_know() -> None:
    for model in vars(models).values():
        if isinstance(model, type) and issubclass(model, models.WireModel):
            assert model.model_config.get("extra") == "allow", model


@pytest.mark.parametrize("broken", ["A", "AA=A", "AAAAA", "not base64", "AACAPw", "AAA="])
def test_a_vector_that_is_broken_base64_is_an_error_of_dbllms(broken: str) -> None:
    reply = Embeddings.model_validate({"data": [{"embedding": broken}]})
    with pytest.raises(APIResponseError, match="no base64 of float32"):
        _ = reply.vectors
