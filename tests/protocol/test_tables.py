"""Tables, columns and arrays of pandas, polars, pyarrow and numpy as they are sent, and answers as tables."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from dbllm import Predictions
from dbllm._protocol import json_encoder
from dbllm._protocol.requests import prediction_body
from dbllm._protocol.tables import read_texts, scoring_form

np = pytest.importorskip("numpy", reason="these are tests with numpy and pandas")
pd = pytest.importorskip("pandas", reason="these are tests with numpy and pandas")

NAN, NAT = float("nan"), pd.NaT
FORMS = {"dataframe_records": None, "dataframe_split": None, "inputs": None, "instances": None}
MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5)


def sent(data: Any = None, **forms: Any) -> Any:
    """The body as it goes over the wire."""
    return json.loads(json_encoder.encode(prediction_body(data, {**FORMS, **forms}, None)))


def test_a_table_of_pandas_is_sent_as_its_columns_and_rows() -> None:
    frame = pd.DataFrame({"prompt": ["a", "b"], "n": [1, 2], "x": [0.5, NAN], "stop": [["."], []]})
    split = {"columns": ["prompt", "n", "x", "stop"], "data": [["a", 1, 0.5, ["."]], ["b", 2, None, []]]}
    assert sent(frame) == {"dataframe_split": split}
    records = [{"prompt": "a", "n": 1, "x": 0.5, "stop": ["."]}, {"prompt": "b", "n": 2, "x": None, "stop": []}]
    assert sent(dataframe_records=frame) == {"dataframe_records": records}
    assert sent(instances=frame) == {"instances": records}
    assert sent(dataframe_split=frame) == {"dataframe_split": split}
    columns = {"prompt": ["a", "b"], "n": [1, 2], "x": [0.5, None], "stop": [["."], []]}
    assert sent(inputs=frame) == {"inputs": columns}
    assert sent(frame.iloc[:0]) == {"dataframe_split": {"columns": ["prompt", "n", "x", "stop"], "data": []}}
    assert sent(inputs=frame.iloc[:0]) == {"inputs": {"prompt": [], "n": [], "x": [], "stop": []}}


def test_every_kind_of_column_becomes_plain_json() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=1))
    wrong = []
    for column, values in (
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pd.Series([True, None], dtype="boolean"), [True, None]),
        (pd.Series(["a", None], dtype="string"), ["a", None]),
        (pd.Series(["a", None], dtype=object), ["a", None]),
        (pd.Series(["a", None, "a"], dtype="category"), ["a", None, "a"]),
        (pd.Series([1.5, NAN], dtype="float32"), [1.5, None]),
        (pd.Series([2**63 - 1, 2**64 - 1], dtype="uint64"), [2**63 - 1, 2**64 - 1]),
        (pd.Series([pd.Timestamp(MOMENT), NAT]), ["2026-01-02T03:04:05", None]),
        (pd.Series([pd.Timestamp(MOMENT, tz=zone)]), ["2026-01-02T03:04:05+01:00"]),
        (pd.Series([pd.Timestamp(MOMENT), pd.NaT, pd.NA, NAN, None], dtype=object), [MOMENT.isoformat(), *[None] * 4]),
        (pd.Series([MOMENT.date(), MOMENT.time()], dtype=object), ["2026-01-02", "03:04:05"]),
        (pd.Series([decimal.Decimal("1.50"), decimal.Decimal("NaN")], dtype=object), [1.5, None]),
        (pd.Series([np.float32(0.5), np.int8(3), np.bool_(True), np.str_("x")], dtype=object), [0.5, 3, True, "x"]),
        (
            pd.Series([np.array([1.0, NAN]), {"a": np.int64(1), "b": [NAT]}], dtype=object),
            [[1.0, None], {"a": 1, "b": [None]}],
        ),
        (
            pd.Series([np.datetime64("2026-01-02T03:04:05"), np.datetime64("NaT")], dtype=object),
            [MOMENT.isoformat(), None],
        ),
        (pd.arrays.SparseArray([0, 1, 0]), [0, 1, 0]),
    ):
        got = [row[0] for row in sent(pd.DataFrame({"c": column}))["dataframe_split"]["data"]]
        if got != values:
            wrong.append((values, got))
    assert not wrong


def test_the_names_of_rows_are_sent_where_they_are_more_than_numbers_in_order() -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    assert "index" not in sent(frame)["dataframe_split"]
    assert sent(frame.set_axis(["x", "y"]))["dataframe_split"]["index"] == ["x", "y"]
    assert sent(frame[frame.a > 1])["dataframe_split"] == {"index": [1], "columns": ["a"], "data": [[2]]}
    assert sent(frame.set_axis(pd.to_datetime(["2026-01-02"] * 2)))["dataframe_split"]["index"][0].startswith("2026-")
    with pytest.raises(ValueError, match=r"several levels.*df\.reset_index\(\)"):
        sent(frame.set_axis(pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])))


def one(value: Any) -> Callable[[], Any]:
    """A table of which the third row of the column `price` is this."""
    return lambda: pd.DataFrame({"a": [1, 2, 3], "price": pd.Series([1, 2, value], dtype=object)})


def test_what_json_has_no_form_for_is_an_error_that_names_the_column_and_the_row() -> None:
    wrong: list[Any] = []
    in_itself: list[Any] = []
    in_itself.append(in_itself)
    for make, kind, parts in (
        (one(math.inf), ValueError, ["column 'price', row 2", "inf", "None"]),
        (one(np.float32("-inf")), ValueError, ["column 'price', row 2", "-inf"]),
        (one(decimal.Decimal("Infinity")), ValueError, ["column 'price', row 2"]),
        (one(decimal.Decimal("0.12345678901234567890123")), TypeError, ["column 'price', row 2", "digits", "str()"]),
        (one(b"bytes"), TypeError, ["column 'price', row 2", "bytes has no form in JSON", "Pass value.decode()"]),
        (one([1, {"a": 1j}]), TypeError, ["column 'price', row 2", "complex"]),
        (one(datetime.timedelta(1)), TypeError, ["column 'price', row 2", "timedelta"]),
        (one(pd.Interval(0, 1)), TypeError, ["column 'price', row 2", "Interval"]),
        (one(object()), TypeError, ["column 'price', row 2", "object", "Pass what it holds"]),
        (one({1, 2}), TypeError, ["column 'price', row 2", "a set has no order", "sorted(value)"]),
        (one({"a": frozenset("b")}), TypeError, ["column 'price', row 2", "a set has no order"]),
        (one(uuid.UUID(int=1)), TypeError, ["column 'price', row 2", "UUID", "Pass str(value)"]),
        (lambda: pd.DataFrame([[1, 2]], columns=[1, "1"]), ValueError, ["two columns '1'", "rename"]),
        (lambda: pd.DataFrame([[1, 2]], columns=[0, False]), ValueError, ["column 1", "False"]),
        (lambda: pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, ["two columns 'a'", "rename"]),
        (lambda: pd.DataFrame([[1]], columns=[("a", "b")]), ValueError, ["column 0", "('a', 'b')", "df.columns ="]),
        (lambda: pd.DataFrame([[1]], columns=pd.to_datetime(["2026-01-02"])), ValueError, ["column 0", "Timestamp"]),
        (lambda: pd.DataFrame({"a": [1]}, index=pd.Index([b"x"])), TypeError, ["the index, row 0", "bytes"]),
        (lambda: [{"a": 1}, {"a": b"x"}], TypeError, ["column 'a', row 1", "bytes"]),
        (lambda: [{"a": 1}, {"a": [math.inf]}], ValueError, ["column 'a', row 1", "inf"]),
        (lambda: [{"a": 1}, {"a": in_itself}], ValueError, ["column 'a', row 1", "in itself"]),
        (lambda: np.array([[1.0], [NAN]]), ValueError, ["inputs[1][0] = nan"]),
        (lambda: np.array([["a"], [b"x"]], dtype=object), TypeError, ["inputs[1][0]", "bytes"]),
        (lambda: pd.Series([1]), TypeError, ["Series", "to_frame()"]),
        (lambda: {"a": [1]}, TypeError, ["dict", "[row]", "predict(**request)"]),
        (lambda: [[1, 2]], TypeError, ["list", "inputs="]),
        (lambda: "text", TypeError, ["not str"]),
        (lambda: iter([{"a": 1}]), TypeError, ["iterator"]),
    ):
        try:
            said: Any = sent(make())
        except (TypeError, ValueError) as error:
            said = error
        if type(said) is not kind or not all(part in str(said) for part in parts):
            wrong.append((parts, said))
    assert not wrong


def test_an_array_is_a_tensor_and_a_list_of_dicts_is_rows() -> None:
    assert sent(np.array([[1, 2], [3, 4]], dtype="int32")) == {"inputs": [[1, 2], [3, 4]]}
    assert sent(np.array(["a", "b"])) == {"inputs": ["a", "b"]}
    rows = [{"a": np.float64(0.5), "b": pd.Timestamp(MOMENT)}, {"a": NAN, "c": {"d": (1,)}}]
    expected = [{"a": 0.5, "b": "2026-01-02T03:04:05"}, {"a": None, "c": {"d": [1]}}]
    assert sent(rows) == sent(tuple(rows)) == {"dataframe_records": expected}
    assert sent([]) == {"dataframe_records": []}


def test_data_and_a_form_are_one_too_many() -> None:
    with pytest.raises(TypeError, match="got data and inputs"):
        sent(pd.DataFrame({"a": [1]}), inputs=[1])
    with pytest.raises(TypeError, match=r"takes data, or exactly one of .*; got none"):
        sent()


@pytest.fixture(scope="module")
def polars() -> Any:
    """polars, once it has started the threads that it keeps."""
    module = pytest.importorskip("polars", reason="this is a test with polars")
    module.Series(["a", None]).drop_nulls()
    return module


def test_a_table_of_polars_is_sent_in_the_same_way(polars: Any) -> None:
    frame = polars.DataFrame(
        {
            "prompt": ["a", None],
            "n": [1, None],
            "x": [0.5, NAN],
            "at": [MOMENT, None],
            "on": [MOMENT.date(), None],
            "price": [decimal.Decimal("1.50"), None],
            "kind": polars.Series(["k", "l"], dtype=polars.Categorical),
            "stop": [["."], []],
            "more": [{"a": 1}, None],
        }
    )
    first = ["a", 1, 0.5, "2026-01-02T03:04:05", "2026-01-02", 1.5, "k", ["."], {"a": 1}]
    second = [None, None, None, None, None, None, "l", [], None]
    assert sent(frame) == {"dataframe_split": {"columns": frame.columns, "data": [first, second]}}
    with pytest.raises(TypeError, match=r"LazyFrame\. Call its collect\(\)"):
        sent(frame.lazy())
    with pytest.raises(TypeError, match=r"Series.*to_frame\(\)"):
        sent(frame["n"])
    with pytest.raises(TypeError, match=r"column 'b', row 1: bytes"):
        sent(polars.DataFrame({"b": [None, b"x"]}))
    with pytest.raises(TypeError, match=r"column 't', row 0: timedelta"):
        sent(polars.DataFrame({"t": [datetime.timedelta(1)]}))
    assert read_texts(frame["prompt"].drop_nulls()) == ["a"]
    assert read_texts(frame["kind"]) == ["k", "l"]
    with pytest.raises(TypeError, match="item 1 of the Series is missing"):
        read_texts(frame["prompt"])
    for whole in (frame, frame.lazy()):
        with pytest.raises(TypeError, match=r"pass one column of it, such as df\['text'\]"):
            read_texts(whole)


def test_a_table_of_pyarrow_is_sent_in_the_same_way() -> None:
    arrow = pytest.importorskip("pyarrow", reason="this is a test with pyarrow")
    table = arrow.table({"prompt": ["a", None], "at": [MOMENT, None]})
    split = {"columns": ["prompt", "at"], "data": [["a", "2026-01-02T03:04:05"], [None, None]]}
    assert sent(table) == {"dataframe_split": split}
    assert read_texts(arrow.array(["a", "b"])) == ["a", "b"]
    assert read_texts(table["prompt"].drop_null()) == ["a"]
    with pytest.raises(TypeError, match="pass one column"):
        read_texts(table)


def test_texts_come_from_whatever_has_them_in_order() -> None:
    wrong = []
    for texts, expected in (
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        (("a",), ["a"]),
        (iter("ab"), ["a", "b"]),
        ((text for text in "ab"), ["a", "b"]),
        ({"a": "x", "b": "y"}.values(), ["x", "y"]),
        (pd.Series(["a", "b"], index=[7, 8]), ["a", "b"]),
        (pd.Series(["a", "b"], dtype="category"), ["a", "b"]),
        (pd.Series(["a", "b"], dtype="string"), ["a", "b"]),
        (pd.Index(["a", "b"]), ["a", "b"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array(["a", "b"], dtype=object), ["a", "b"]),
        (np.array("a"), ["a"]),
        (np.str_("a"), ["a"]),
    ):
        got = read_texts(texts)
        if got != expected or any(type(text) is not str for text in got):
            wrong.append((expected, got))
    assert not wrong


def test_what_has_no_texts_or_no_order_says_so() -> None:
    async def texts() -> Any:
        yield "a"

    wrong = []
    for given, parts in (
        (None, ["not NoneType"]),
        (5, ["not int"]),
        (b"x", ["not bytes"]),
        ({"a": 1}, ["not dict"]),
        ({"a"}, ["set", "no order", "sorted(texts)"]),
        (frozenset("a"), ["frozenset", "no order"]),
        ([1], ["item 0 of the list is int"]),
        (["a", None], ["item 1 of the list is missing"]),
        ([["a"]], ["item 0 of the list is list"]),
        (iter(["a", b"b"]), ["item 1", "bytes"]),
        (pd.Series(["a", NAN], dtype=object), ["item 1 of the Series is missing"]),
        (pd.Series(["a", pd.NA], dtype="string"), ["item 1 of the Series is missing"]),
        (pd.Series([1, 2]), ["item 0 of the Series is int"]),
        (pd.DataFrame({"a": ["x"]}), ["DataFrame", "one column", "df['text']"]),
        (np.array([["a"]]), ["item 0 of the ndarray is list"]),
        (np.array([1.5]), ["item 0 of the ndarray is float"]),
        (np.array(5), ["item 0 of the ndarray is int"]),
        (texts(), ["async_generator", "in a list first"]),
    ):
        try:
            said: Any = read_texts(given)
        except TypeError as error:
            said = error
        if not isinstance(said, TypeError) or not all(part in str(said) for part in parts):
            wrong.append((parts, said))
    assert not wrong
    for empty in ([], (), iter(()), pd.Series([], dtype=object), np.array([], dtype=str)):
        with pytest.raises(ValueError, match="at least one text"):
            read_texts(empty)


def test_no_library_is_imported_that_was_not(script: Callable[..., str]) -> None:
    said = script(
        "import sys\nfrom dbllm._protocol.tables import read_texts, scoring_form\n"
        "read_texts(iter('ab')), scoring_form([{'a': 1.5}])\n"
        "print(*[name for name in ('pandas', 'polars', 'numpy', 'pyarrow') if name in sys.modules])"
    )
    assert said.split() == []


def test_predictions_of_any_form_are_a_table() -> None:
    wrong = []
    for predictions, columns, rows in (
        ([0.1, 0.2], ["prediction"], [[0.1], [0.2]]),
        (["a"], ["prediction"], [["a"]]),
        ("a", ["prediction"], [["a"]]),
        ([{"a": 1, "b": "x"}, {"a": 2, "c": True}], ["a", "b", "c"], [[1, "x", None], [2, None, True]]),
        ({"a": [1, 2], "b": [3, 4]}, ["a", "b"], [[1, 3], [2, 4]]),
        ({"a": 1, "b": [3, 4]}, ["a", "b"], [[1, [3, 4]]]),
        ([[0.1, 0.9], [0.3]], [0, 1], [[0.1, 0.9], [0.3, None]]),
        ([], ["prediction"], []),
        ([{"a": 1}, None], ["prediction"], [[{"a": 1}], [None]]),
    ):
        frame = Predictions(predictions=predictions).as_pandas()
        got = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
        if [*frame.columns] != columns or got != rows:
            wrong.append((predictions, frame))
    assert not wrong
    frame = pd.DataFrame({"a": [1, 2, 3]})[lambda table: table.a > 1]
    frame["score"] = Predictions(predictions=[0.2, 0.3]).as_pandas(index=frame.index)["prediction"]
    assert frame["score"].tolist() == [0.2, 0.3]


def test_without_pandas_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install pandas.*\.predictions"):
        Predictions(predictions=[1]).as_pandas()


def test_the_form_of_data_is_told_by_its_class() -> None:
    assert [*scoring_form(pd.DataFrame({"a": [1]}))] == ["dataframe_split"]
    assert [*scoring_form(np.zeros(2))] == ["inputs"]
    assert [*scoring_form([{"a": 1}])] == ["dataframe_records"]
