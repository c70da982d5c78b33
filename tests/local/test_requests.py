from __future__ import annotations

import pytest

from dbllm.local.errors import Problem
from dbllm.local.invocation.requests import read_chat, read_completions, read_embeddings

HELLO = [{"role": "user", "content": "hello"}]


def refused(read: object, body: object) -> str:
    assert callable(read)
    with pytest.raises(Problem) as caught:
        read(body)
    assert caught.value.status == 400
    return caught.value.message


def test_everything_a_foundation_chat_endpoint_takes_is_taken() -> None:
    request = read_chat(
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "u"}]},
            ],
            "temperature": 0.1,
            "max_tokens": 64,
            "top_p": 0.9,
            "top_k": 40,
            "stop": "\n",
            "n": 2,
            "stream": True,
            "stream_options": {"include_usage": True},
            "client_request_id": "c-1",
            "usage_context": {"team": "x"},
            "model": "smollm2-chat",
        }
    )
    assert request.stream
    assert request.choices_per_prompt == 2
    assert [dict(job.request) for job in request.jobs] == [
        {
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
            "temperature": 0.1,
            "max_tokens": 64,
            "top_p": 0.9,
            "top_k": 40,
            "stop": ["\n"],
        }
    ] * 2


def test_a_null_is_a_field_that_was_not_sent() -> None:
    request = read_chat({"messages": HELLO, "temperature": None, "stop": None, "n": None, "stream": None})
    assert "temperature" not in request.jobs[0].request
    assert not request.stream


@pytest.mark.parametrize("field", ["prompt", "inputs", "dataframe_records", "presence_penalty", "seed", "Messages"])
def test_an_unknown_field_is_refused_in_the_words_of_the_service(field: str) -> None:
    assert refused(read_chat, {"messages": HELLO, field: 1}) == f'Bad request: json: unknown field "{field}"'


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"temperature": "hot"}, "'temperature' must be a number between 0 and 2"),
        ({"temperature": True}, "'temperature' must be a number"),
        ({"temperature": 3}, "'temperature' must be a number between 0 and 2"),
        ({"max_tokens": 0}, "'max_tokens' must be an integer between 1"),
        ({"max_tokens": 1.5}, "'max_tokens' must be an integer"),
        ({"n": 6}, "'n' must be an integer between 1 and 5"),
        ({"stop": [1]}, "'stop' must be a string or a list of strings"),
        ({"stop": [""]}, "none of them empty"),
        ({"stream": "true"}, "'stream' must be true or false"),
        ({"usage_context": {"a": 1}}, "'usage_context' must be an object of strings"),
        ({"response_format": "json"}, "'response_format' must be an object"),
        ({"tools": [{"type": "function"}]}, "'tools[0]' must be an object with 'type': 'function' and a 'function'"),
        ({"messages": "hello"}, "'messages' must be a list of messages, not empty"),
        ({"messages": []}, "'messages' must be a list of messages, not empty"),
        ({"messages": None}, "missing required field 'messages'"),
        ({"messages": ["hello"]}, "'messages[0]' must be an object"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "'messages[0].role' must be one of"),
        ({"messages": [{"role": "user"}]}, "'messages[0].content' must be a string or a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "must be a text part"),
    ],
)
def test_a_wrong_value_is_refused_with_the_field_and_what_it_must_be(fields: dict[str, object], reason: str) -> None:
    assert reason in refused(read_chat, {"messages": HELLO, **fields})


@pytest.mark.parametrize("body", [[], "x", 1, None])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    for read in (read_chat, read_completions, read_embeddings):
        assert "cannot unmarshal" in refused(read, body)


def test_a_list_of_prompts_gets_n_choices_each() -> None:
    request = read_completions({"prompt": ["a", "b"], "n": 2})
    prompts = [job.request["messages"] for job in request.jobs]
    assert prompts == [[{"role": "user", "content": prompt}] for prompt in ("a", "a", "b", "b")]


def test_a_raw_prompt_is_continued_without_template() -> None:
    (job,) = read_completions({"prompt": "Once", "use_raw_prompt": True}).jobs
    assert (job.kind, job.request["prompt"]) == ("raw", "Once")


@pytest.mark.parametrize("prompt", [None, 1, [], [1], {"a": 1}])
def test_a_prompt_must_be_text(prompt: object) -> None:
    assert "'prompt'" in refused(read_completions, {"prompt": prompt})


def test_texts_to_embed_keep_their_order_and_get_the_instruction() -> None:
    assert read_embeddings({"input": "a"}).texts == ("a",)
    assert read_embeddings({"input": ["a", "b"], "instruction": "Find:"}).texts == ("Find: a", "Find: b")


def test_missing_input_is_named_as_the_service_does() -> None:
    assert refused(read_embeddings, {}) == "Missing required embeddings parameter: 'input'"


@pytest.mark.parametrize("value", [1, [], [1], ["a", None]])
def test_what_is_not_text_cannot_be_embedded(value: object) -> None:
    assert "'input' must be" in refused(read_embeddings, {"input": value})
