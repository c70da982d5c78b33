from __future__ import annotations

import pytest

from dbllm.local.errors import Problem
from dbllm.local.invocation.scoring import parse_scoring, read_row


def rows(body: object) -> list[dict[str, object]]:
    return [dict(row) for row in parse_scoring(body).rows]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"prompt": "a", "stop": ["."]}, {"prompt": "b", "stop": None}]},
        {"dataframe_split": {"columns": ["prompt", "stop"], "data": [["a", ["."]], ["b", None]], "index": [0, 1]}},
        {"inputs": {"prompt": ["a", "b"], "stop": [["."], None]}},
        {"inputs": [{"prompt": "a", "stop": ["."]}, {"prompt": "b", "stop": None}]},
        {"instances": [{"prompt": "a", "stop": ["."]}, {"prompt": "b", "stop": None}]},
    ],
)
def test_every_format_carries_the_same_rows(body: object) -> None:
    assert rows(body) == [{"prompt": "a", "stop": ["."]}, {"prompt": "b", "stop": None}]
    assert parse_scoring(body).wrapped


def test_one_record_as_inputs_is_one_row() -> None:
    assert rows({"inputs": {"prompt": "a", "stop": ["."]}}) == [{"prompt": "a", "stop": ["."]}]


def test_no_rows_are_no_predictions() -> None:
    assert rows({"dataframe_records": []}) == []


def test_params_apply_to_every_row_and_a_column_wins_over_them() -> None:
    body = {"dataframe_records": [{"prompt": "a"}, {"prompt": "b", "temperature": 1}], "params": {"temperature": 0}}
    assert [row["temperature"] for row in rows(body)] == [0, 1]


def test_a_bare_prompt_goes_to_the_model_as_it_is_and_is_answered_without_wrapper() -> None:
    scoring = parse_scoring(
        {"prompt": "a", "stop": ["."], "temperature": 0.1, "stream": True, "params": {"max_tokens": 3}}
    )
    assert not scoring.wrapped
    assert scoring.stream
    assert [dict(row) for row in scoring.rows] == [{"prompt": "a", "stop": ["."], "temperature": 0.1, "max_tokens": 3}]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], "must be a JSON object, got array"),
        ("text", "must be a JSON object, got string"),
        (None, "must be a JSON object, got null"),
        ({}, "exactly one of the input fields"),
        ({"data": []}, "Received dictionary with input fields: ['data']"),
        ({"inputs": [], "instances": []}, "exactly one of the input fields"),
        ({"dataframe_records": {}}, "must be a list of records, got object"),
        ({"dataframe_records": ["a"]}, "Each record must be a JSON object, got string"),
        ({"dataframe_split": []}, "with 'columns' and 'data'"),
        ({"dataframe_split": {"columns": ["prompt"]}}, "with 'columns' and 'data'"),
        ({"dataframe_split": {"columns": [1], "data": []}}, "list of column names"),
        ({"dataframe_split": {"columns": ["prompt"], "data": ["a"]}}, "list of rows"),
        ({"dataframe_split": {"columns": ["prompt"], "data": [["a", "b"]]}}, "has 2 values for 1 columns"),
        ({"inputs": "a"}, "must be a list or a JSON object, got string"),
        ({"inputs": ["a"]}, "named inputs"),
        ({"inputs": {"prompt": ["a", "b"], "stop": [["."]]}}, "Column 'stop' must be a list of 2 values"),
        ({"dataframe_records": [], "params": []}, "'params' must be a JSON object, got array"),
        ({"dataframe_records": [], "stream": "yes"}, "'stream' must be true or false"),
    ],
)
def test_a_body_outside_the_protocol_is_refused_with_the_reason(body: object, reason: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_scoring(body)
    assert caught.value.status == 400
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "missing inputs ['prompt']"),
        ({"prompt": None, "q": 1}, "missing inputs ['prompt']"),
        ({"prompt": 1}, "column prompt. Can not safely convert number to str"),
        ({"prompt": ["a"]}, "column prompt"),
        ({"prompt": "a", "stop": "."}, "column stop"),
        ({"prompt": "a", "stop": [1]}, "column stop"),
        ({"prompt": "a", "stop": [""]}, "column stop"),
    ],
)
def test_a_row_outside_the_signature_is_refused_with_the_reason(row: dict[str, object], reason: str) -> None:
    with pytest.raises(Problem) as caught:
        read_row(row, ["temperature"])
    assert caught.value.status == 400
    assert reason in caught.value.message


def test_columns_outside_the_signature_are_ignored_and_nulls_are_not_sent() -> None:
    ask = read_row({"prompt": "a", "temperature": 0, "max_tokens": None, "other": 1}, ["temperature", "max_tokens"])
    assert (ask.prompt, ask.stop, dict(ask.params)) == ("a", (), {"temperature": 0})
