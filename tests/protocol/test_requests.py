"""Where a call goes, in which envelope, and what never goes to the wire."""

from __future__ import annotations

import datetime
import enum
import json
import math
import re
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from dbllm import ConfigError, Message, Usage
from dbllm._protocol import json_encoder, paths, requests, tasks

# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("dolly", "dolly"),
        ("a/b", "a%2Fb"),
        ("a b", "a%20b"),
        ("ä", "%C3%A4"),
        ("a?b#c", "a%3Fb%23c"),
        ("a%2Fb", "a%252Fb"),
        ("v1.5", "v1.5"),
        ("...x", "...x"),
        ("a&b=c;d", "a%26b%3Dc%3Bd"),
        ("\U0001f600", "%F0%9F%98%80"),
        ("../secrets", "..%2Fsecrets"),
    ],
)
def test_a_name_is_one_segment_of_the_path(name: str, segment: str) -> None:
    path = paths.invocations_path(name)
    assert path == f"/serving-endpoints/{segment}/invocations"
    assert paths.invocations_path("e", name) == f"/serving-endpoints/e/served-models/{segment}/invocations"
    assert httpx.URL(f"https://h{path}").raw_path.decode() == path


@pytest.mark.parametrize("name", ["", " ", "\n", None, 5, b"x", ["x"]])
def test_an_endpoint_needs_a_name(name: Any) -> None:
    with pytest.raises(ConfigError, match="needs a name"):
        paths.invocations_path(name)


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_of_dots_cannot_leave_its_place(name: str) -> None:
    for make in (
        lambda: paths.invocations_path(name),
        lambda: paths.invocations_path("e", name),
        lambda: paths.app_path(7777, name),
    ):
        try:
            path = make()
        except ConfigError:
            continue
        assert httpx.URL(f"https://h{path}").raw_path.decode() == path
        assert f"/{name}/" not in path


@settings(max_examples=100, deadline=None)
@given(
    st.text(min_size=1, max_size=20).filter(
        lambda name: name.strip() == name and name.strip(".") and name.isprintable()
    )
)
def test_any_name_stays_within_its_segment(name: str) -> None:
    path = paths.invocations_path(name)
    assert path.count("/") == 3
    assert httpx.URL(f"https://h{path}").raw_path.decode() == path


@pytest.mark.parametrize("port", [3000, 7777, 8000, "7777"])
def test_a_driver_app_has_a_path_without_a_trailing_slash(port: int | str) -> None:
    assert paths.app_path(port, "0101-000000-abc") == f"/driver-proxy-api/o/0/0101-000000-abc/{port}"


def test_cluster_and_workspace_are_quoted() -> None:
    assert paths.app_path(7777, "a/b", "1/2") == "/driver-proxy-api/o/1%2F2/a%2Fb/7777"


@pytest.mark.parametrize(
    "port",
    [2999, 8001, 0, -1, 65536, True, "", "x", " 7777", "7777 ", "+7777", "７７７７", "1e3", None, 7777.5, b"7777"],
)
def test_a_port_the_proxy_does_not_forward_is_refused(port: Any) -> None:
    with pytest.raises(ConfigError, match="3000 to 8000"):
        paths.app_path(port, "c")


@pytest.mark.parametrize("port", ["3" * 5000, "0" * 5000 + "x"])
def test_an_endless_port_is_refused_like_any_other(port: str) -> None:
    with pytest.raises(ConfigError, match="3000 to 8000"):
        paths.app_path(port, "c")


# --- what an endpoint speaks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("llm/v1/chat", "chat"),
        ("agent/v1/chat", "chat"),
        ("llm/v1/completions", "completions"),
        ("llm/v1/embeddings", "embeddings"),
        ("agent/v1/responses", "responses"),
        ("agent/v2/responses", "responses"),
        ("agent/v2/chat", "agent"),
        (None, "custom"),
        ("", "custom"),
        ("something/new", "custom"),
    ],
)
def test_the_task_says_what_an_endpoint_speaks(task: str | None, kind: str) -> None:
    assert tasks.kind_of_task(task) == kind


def test_the_task_of_a_user_is_one_that_exists() -> None:
    assert tasks.parse_task(None) is None
    assert tasks.parse_task("chat") == "chat"
    assert tasks.parse_task("llm/v1/completions") == "completions"
    with pytest.raises(ConfigError, match=r"task='chatt' is not one of .*llm/v1/chat"):
        tasks.parse_task("chatt")


def test_every_kind_has_verbs() -> None:
    for task in (None, *tasks._KINDS):
        assert tasks.VERBS[tasks.kind_of_task(task)]


@pytest.mark.parametrize(
    ("kind", "flat", "expected"),
    [
        ("completions", {"prompt": "p"}, ("completions",)),
        ("custom", {"messages": []}, ("custom",)),
        (None, {"prompt": "p"}, ("chat", "completions", "custom")),
        (None, {"messages": []}, ("chat",)),
        (None, {"input": []}, ("responses",)),
        (None, {"inputs": []}, ("custom",)),
        (None, {"dataframe_records": []}, ("custom",)),
    ],
)
def test_what_is_unknown_is_tried_in_turn(kind: Any, flat: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert tasks.candidate_kinds(kind, flat) == expected


# --- the prompt/stop signature ----------------------------------------------------------------------------------------

FLAT = {"prompt": "hi", "stop": ["."], "temperature": 0.1}
USER = {"role": "user", "content": "hi"}
REST = {"stop": ["."], "temperature": 0.1}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("chat", {"messages": [USER], **REST}),
        ("agent", {"messages": [USER], **REST}),
        ("completions", FLAT),
        ("app", FLAT),
        ("custom", {"dataframe_records": [FLAT]}),
    ],
)
def test_each_kind_has_its_envelope(kind: Any, body: dict[str, Any]) -> None:
    flat = dict(FLAT)
    assert requests.request_body(kind, flat, "e") == body
    assert flat == FLAT  # and the request itself is not changed


def test_the_envelope_of_responses_has_its_own_words_and_no_stop_strings() -> None:
    flat = {"prompt": FLAT["prompt"], "max_tokens": 5, "temperature": 0.1}
    assert requests.request_body("responses", flat, "e") == {
        "input": [USER],
        "max_output_tokens": 5,
        "temperature": 0.1,
    }
    with pytest.raises(ConfigError, match="no stop strings"):
        requests.request_body("responses", dict(FLAT), "e")


@pytest.mark.parametrize("kind", ["chat", "agent", "responses", "completions", "app", "custom"])
@pytest.mark.parametrize("key", sorted(tasks.ENVELOPE_KEYS))
def test_a_whole_body_is_left_alone(kind: Any, key: str) -> None:
    body = {key: [1], "temperature": 0.1}
    assert requests.request_body(kind, body, "e") == body


def test_the_envelope_keys_are_those_of_the_scoring_protocol_and_of_chat() -> None:
    assert {"messages", "input", "inputs", "instances", "dataframe_records", "dataframe_split"} == tasks.ENVELOPE_KEYS


def test_an_embeddings_endpoint_completes_nothing() -> None:
    with pytest.raises(ConfigError, match=r"'bge' makes embeddings: use embed\(\)"):
        requests.request_body("embeddings", FLAT, "bge")


@pytest.mark.parametrize("kind", ["chat", "agent", "responses", "completions"])
@pytest.mark.parametrize("flat", [{}, {"stop": ["."]}, {"prompt": None}, {"prompt": ["a"]}, {"prompt": 5}])
def test_a_transform_that_loses_the_prompt_is_told(kind: Any, flat: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="transform_input returned neither 'prompt'"):
        requests.request_body(kind, flat, "e")


def test_a_custom_model_and_an_app_may_do_without_a_prompt() -> None:
    assert requests.request_body("custom", {"text": "x"}, "e") == {"dataframe_records": [{"text": "x"}]}
    assert requests.request_body("app", {"text": "x"}, "e") == {"text": "x"}


def test_the_flat_request_has_prompt_stop_and_parameters() -> None:
    assert requests.prompt_request("hi", ["."], {"temperature": 0.1}) == FLAT
    assert list(requests.prompt_request("hi", ["."], {"a": 1})) == ["prompt", "stop", "a"]
    assert requests.prompt_request("", None, {}) == {"prompt": ""}


@pytest.mark.parametrize("stop", [None, [], ()])
def test_an_empty_stop_is_not_sent(stop: Any) -> None:
    assert requests.prompt_request("hi", stop, {}) == {"prompt": "hi"}


@pytest.mark.parametrize(("stop", "sent"), [(".", ["."]), (["a", "b"], ["a", "b"]), (("a",), ["a"]), ("ab", ["ab"])])
def test_stop_is_a_text_or_a_list_of_them(stop: Any, sent: list[str]) -> None:
    assert requests.prompt_request("hi", stop, {})["stop"] == sent


@pytest.mark.parametrize("stop", [5, [1], ["a", None], {"a"}, {"a": 1}, b"x", True])
def test_a_stop_of_another_kind_is_refused(stop: Any) -> None:
    with pytest.raises(TypeError, match="stop must be a str or a list of str"):
        requests.prompt_request("hi", stop, {})


@pytest.mark.parametrize("prompt", [["a"], ("a", "b")])
def test_several_prompts_are_for_bulk(prompt: Any) -> None:
    with pytest.raises(TypeError, match=r"one prompt, a str, not (list|tuple).*bulk.*chat\(\)"):
        requests.prompt_request(prompt, None, {})


@pytest.mark.parametrize("prompt", [None, 5, b"x", {"role": "user"}])
def test_a_prompt_is_a_text(prompt: Any) -> None:
    with pytest.raises(TypeError, match="one prompt, a str, not"):
        requests.prompt_request(prompt, None, {})


def test_several_answers_are_for_chat() -> None:
    with pytest.raises(ValueError, match=r"n=2 would lose answers: use chat\(\.\.\., n=2\)"):
        requests.prompt_request("hi", None, {"n": 2})
    assert requests.prompt_request("hi", None, {"n": 1}) == {"prompt": "hi", "n": 1}


# --- parameters -------------------------------------------------------------------------------------------------------

WIRE_PARAMETERS = """
    temperature top_p top_k max_tokens n seed tools tool_choice response_format logprobs top_logprobs
    presence_penalty frequency_penalty user stream_options reasoning_effort thinking service_tier
    client_request_id usage_context instruction suffix echo best_of logit_bias metadata store
    parallel_tool_calls custom_inputs databricks_options return_trace repeat_penalty min_p extra_params
    input_type dimensions encoding_format stop_sequences max_completion_tokens max_output_tokens
    max_new_tokens do_sample model context task prompt input modalities verbosity prediction truncate
    safety_identifier typical_p num_beams return_full_text
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", WIRE_PARAMETERS)
def test_a_parameter_of_the_wire_passes(name: str) -> None:
    assert requests.model_params({name: 1}) == {name: 1}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("time_out", "timeout"),
        ("timeouts", "timeout"),
        ("Timeout", "timeout"),
        ("timeot", "timeout"),
        ("request_timeout", "timeout"),
        ("timeout", "timeout="),
        ("retry", "retry="),
        ("retrys", "retry"),
        ("retries", "retry=Retry"),
        ("max_retries", "retry=Retry"),
        ("header", "headers"),
        ("heders", "headers"),
        ("extra_headers", "headers"),
        ("headers", "headers="),
        ("extra_bdy", "extra_body"),
        ("extrabody", "extra_body"),
        ("extra_body", "extra_body="),
        ("extra_query", "params="),
        ("stops", "stop"),
        ("stream", "stream_chat"),
    ],
)
def test_a_near_miss_of_an_option_never_goes_to_the_wire(name: str, meant: str) -> None:
    with pytest.raises(TypeError) as caught:
        requests.model_params({"temperature": 0.1}, {name: 1})
    assert repr(name) in str(caught.value)
    assert meant in str(caught.value)


def test_a_misspelt_option_is_refused_even_when_it_is_none() -> None:
    with pytest.raises(TypeError, match="timeout"):
        requests.model_params({"time_out": None})


def test_later_layers_win_and_none_is_not_sent() -> None:
    assert requests.model_params({"a": 1, "b": 2}, None, {}, {"b": None, "c": 0, "d": False, "e": ""}) == {
        "a": 1,
        "c": 0,
        "d": False,
        "e": "",
    }


def test_the_layers_themselves_are_not_changed() -> None:
    first, second = {"a": 1}, {"a": 2}
    requests.model_params(first, second)
    assert (first, second) == ({"a": 1}, {"a": 2})


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_is_short_and_utf8() -> None:
    assert json_encoder.encode({"prompt": "é\u2028", "stop": ["."]}) == '{"prompt":"é\u2028","stop":["."]}'.encode()


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"temperature": NAN}, "temperature"),
        ({"a": [1, {"b": INF}]}, "a[1].b"),
        ({"a": {"b": {"c": -INF}}}, "a.b.c"),
        ({"a": (0.5, NAN)}, "a[1]"),
        ([0.5, NAN], "[1]"),
        ({"a": {1: NAN}}, "a.1"),
        (NAN, "the value"),
        (MappingProxyType({"a": NAN}), "a"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_with_its_place(body: object, place: str) -> None:
    with pytest.raises(ValueError, match="finite") as caught:
        json_encoder.encode(body)
    assert str(caught.value).startswith((f"{place} = ", f"{place} is"))


class Reading(BaseModel):
    value: float


def test_numpy_values_are_taken_as_what_they_hold() -> None:
    np = pytest.importorskip("numpy")
    body = {
        "a": np.float32(1.5),
        "b": np.int64(3),
        "c": np.bool_(True),
        "d": np.array([[1, 2], [3, 4]]),
        "e": np.array([]),
        "f": np.float64(0.25),
        "g": np.array("x"),
    }
    assert json.loads(json_encoder.encode(body)) == {
        "a": 1.5,
        "b": 3,
        "c": True,
        "d": [[1, 2], [3, 4]],
        "e": [],
        "f": 0.25,
        "g": "x",
    }


def test_numpys_times_are_sent_as_dates_whatever_their_unit_and_shape() -> None:
    np = pytest.importorskip("numpy")

    def nanos(text: str) -> Any:
        return np.datetime64(text, "ns")

    both = np.array([nanos("2020-01-02"), np.datetime64("NaT")])
    table = [
        (nanos("2020-01-02"), "2020-01-02T00:00:00"),
        (nanos("2020-01-02T03:04:05.5"), "2020-01-02T03:04:05.500000"),
        (nanos("2020-01-02T03:04:05.000000007"), "2020-01-02T03:04:05.000000007"),
        (np.datetime64("2020-01-02T03:04:05", "us"), "2020-01-02T03:04:05"),
        (np.datetime64("2020-01-02T03", "h"), "2020-01-02T03:00:00"),
        (np.datetime64("2020-01-02"), "2020-01-02"),
        (np.datetime64("2020", "Y"), "2020-01-01"),
        (np.datetime64("12020-01-02"), "12020-01-02"),
        (np.array(nanos("2020-01-02")), "2020-01-02T00:00:00"),
        (both, ["2020-01-02T00:00:00", None]),
        (both.reshape(2, 1), [["2020-01-02T00:00:00"], [None]]),
        (np.ma.array(both, mask=[True, False]), [None, None]),
        (np.array([(1, nanos("2020-01-02"))], dtype=[("a", "i8"), ("t", "M8[ns]")]), [[1, "2020-01-02T00:00:00"]]),
        (np.datetime64("NaT", "ns"), None),
        (np.timedelta64("NaT"), None),
        (np.longdouble("0.1"), 0.1),
        (np.array([1.5], "g"), [1.5]),
        (np.array("NaT"), "NaT"),
        (np.str_("NaT"), "NaT"),
    ]
    got = [(value, json.loads(json_encoder.encode({"v": value}))["v"]) for value, _ in table]
    assert [said for _, said in got] == [expected for _, expected in table]


def test_what_numpy_has_and_json_has_no_form_for_is_refused_by_name() -> None:
    np = pytest.importorskip("numpy")
    for value, said in (
        (np.timedelta64(5, "ns"), r"timedelta64 has no form in JSON: .* Divide it by numpy.timedelta64\(1, 's'\)"),
        (np.array([5], "m8[s]"), "timedelta64 has no form in JSON"),
        (np.clongdouble(1), "clongdouble has no form in JSON"),
        (np.void(b"abc"), "void has no form in JSON"),
        (np.dtype("M8[ns]"), "has no form in JSON"),
        (np.datetime64, "type has no form in JSON"),
    ):
        with pytest.raises(TypeError, match=said):
            json_encoder.encode({"v": [value]})
    with pytest.raises(ValueError, match=r"^v\[0\] = inf"):
        json_encoder.encode({"v": np.array([np.longdouble("1e4000")])})


def test_pandas_times_are_sent_as_dates_and_a_missing_one_as_null() -> None:
    pd = pytest.importorskip("pandas")
    moments = pd.to_datetime(["2020-01-02", None])
    frame = pd.DataFrame({"t": moments, "n": [1, 2]})
    for value, expected in (
        (pd.NaT, None),
        (frame["t"], ["2020-01-02T00:00:00", None]),
        (frame["t"].dt.tz_localize("UTC"), ["2020-01-02T00:00:00+00:00", None]),
        (frame["t"].values, ["2020-01-02T00:00:00", None]),
        (moments, ["2020-01-02T00:00:00", None]),
        (frame.values, [["2020-01-02T00:00:00", 1], [None, 2]]),
        (frame.to_records(index=False), [["2020-01-02T00:00:00", 1], [None, 2]]),
        (pd.Timedelta(1, "s"), "P0DT0H0M1S"),
        (pd.NA, None),
        (pd.array([1, None]), [1, None]),
    ):
        assert json.loads(json_encoder.encode({"v": value}))["v"] == expected


def test_a_nan_that_numpy_holds_is_refused_with_its_place() -> None:
    np = pytest.importorskip("numpy")
    for value in (np.array([1.0, NAN]), np.float32("nan"), np.float64("inf")):
        with pytest.raises(ValueError, match=r"^inputs"):
            json_encoder.encode({"inputs": value})


def test_a_nan_that_a_model_holds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"finite|compliant"):
        json_encoder.encode({"row": Reading(value=NAN)})


class Colour(str, enum.Enum):
    RED = "red"


def test_what_is_nearly_json_is_taken() -> None:
    body = {
        "message": Message(role="user", content="x"),
        "usage": Usage(prompt_tokens=1),
        "date": datetime.date(2026, 1, 2),
        "moment": datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.timezone.utc),
        "set": {"only"},
        "frozen": frozenset({1}),
        "tuple": (1, 2),
        "mapping": MappingProxyType({"a": 1}),
        "ordered": OrderedDict(b=1),
        "enum": Colour.RED,
    }
    assert json.loads(json_encoder.encode(body)) == {
        "message": {"role": "user", "content": "x"},
        "usage": {"prompt_tokens": 1},
        "date": "2026-01-02",
        "moment": "2026-01-02T03:04:00+00:00",
        "set": ["only"],
        "frozen": [1],
        "tuple": [1, 2],
        "mapping": {"a": 1},
        "ordered": {"b": 1},
        "enum": "red",
    }


@pytest.mark.parametrize("value", [b"x", object(), 1j, (x for x in [1]), range(3), print, int, Message])
def test_what_json_has_no_form_for_is_refused_by_name(value: object) -> None:
    with pytest.raises(TypeError, match="has no form in JSON"):
        json_encoder.encode({"a": value})


def test_a_long_value_is_not_shown_whole() -> None:
    with pytest.raises(TypeError) as caught:
        json_encoder.encode({"a": b"x" * 100_000})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"prompt": "a\ud800"}, "prompt is not Unicode: its character 1"),
        ({"\udfff": 1}, "a key of the request is not Unicode: its character 0"),
        (["hi", {"a": ("\ud83d",)}], "[1].a[0] is not Unicode"),
        ("\udc80", "the text is not Unicode"),
        ({"a": Message(content="b\ud800")}, "a.content is not Unicode"),
    ],
)
def test_half_a_surrogate_pair_is_refused_in_our_words(body: object, where: str) -> None:
    with pytest.raises(ValueError, match=re.escape(where)) as caught:
        json_encoder.encode(body)
    assert type(caught.value) is ValueError
    assert "Drop it with" in str(caught.value)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert json.loads(json_encoder.encode({"a": "\U0001f600"})) == {"a": "\U0001f600"}


def test_what_holds_itself_is_refused() -> None:
    body: dict[str, Any] = {}
    body["a"] = [body]
    with pytest.raises(ValueError):  # noqa: PT011 - the words are Python's own or ours
        json_encoder.encode(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_any_json_goes_over_unchanged(body: object) -> None:
    assert json.loads(json_encoder.encode(body)) == body


# --- messages, texts, rows --------------------------------------------------------------------------------------------

ASKED = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("given_", "sent"),
    [
        ("hi", [ASKED]),
        ("", [{"role": "user", "content": ""}]),
        (ASKED, [ASKED]),
        ([ASKED], [ASKED]),
        ((ASKED, ASKED), [ASKED, ASKED]),
        (Message(role="user", content="hi"), [ASKED]),
        ([Message(role="user", content="hi"), ASKED], [ASKED, ASKED]),
        (Message(content="hi"), [{"role": "assistant", "content": "hi"}]),
        (Message(role="user", content=None), [{"role": "user", "content": None}]),
        ([{"role": "tool", "tool_call_id": "c"}], [{"role": "tool", "tool_call_id": "c"}]),
        (MappingProxyType(ASKED), [ASKED]),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}],) * 2,
    ],
)
def test_messages_come_in_every_form(given_: Any, sent: list[Any]) -> None:
    assert json.loads(json_encoder.encode(requests.chat_messages(given_))) == sent


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (None, "NoneType"),
        (5, "int"),
        (b"hi", "bytes"),
        (bytearray(b"hi"), "bytearray"),
        (iter([ASKED]), "iterator"),
        ({ASKED["content"]}, "set"),
        (["hi"], r"messages\[0\].*str"),
        ([ASKED, None], r"messages\[1\].*NoneType"),
        ([ASKED, {"content": "x"}], r"messages\[1\].*without a role"),
        ([{"role": 5, "content": "x"}], r"messages\[0\].*without a role"),
        ({"content": "x"}, r"messages\[0\].*without a role"),
        ([[ASKED]], r"messages\[0\].*list"),
        ([("user", "hi")], r"messages\[0\].*tuple"),
    ],
)
def test_messages_of_a_wrong_form_are_refused_with_their_place(given_: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        requests.chat_messages(given_)


@pytest.mark.parametrize("given_", [[], ()])
def test_a_chat_needs_a_message(given_: Any) -> None:
    with pytest.raises(ValueError, match="at least one message"):
        requests.chat_messages(given_)


def test_the_messages_of_a_caller_are_not_changed() -> None:
    mine = [dict(ASKED)]
    requests.chat_messages(mine).append("more")
    assert mine == [ASKED]


FORMS = {"dataframe_records": None, "dataframe_split": None, "inputs": None, "instances": None}


@pytest.mark.parametrize("form", FORMS)
def test_a_prediction_has_one_form(form: str) -> None:
    assert requests.prediction_body(None, {**FORMS, form: [1]}, None) == {form: [1]}
    assert requests.prediction_body(None, {**FORMS, form: [1]}, {"t": 1}) == {form: [1], "params": {"t": 1}}
    assert requests.prediction_body(None, {**FORMS, form: []}, {}) == {form: []}


def test_a_prediction_of_an_array_does_not_ask_for_its_truth() -> None:
    np = pytest.importorskip("numpy")
    body = requests.prediction_body(None, {**FORMS, "inputs": np.zeros((2, 2))}, None)
    assert json.loads(json_encoder.encode(body)) == {"inputs": [[0.0, 0.0], [0.0, 0.0]]}


def test_no_form_or_two_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"exactly one of dataframe_records, .*; got none"):
        requests.prediction_body(None, FORMS, None)
    with pytest.raises(TypeError, match="got inputs and instances"):
        requests.prediction_body(None, {**FORMS, "inputs": 1, "instances": 2}, None)
