"""Values that a format does not have: NaN, infinite numbers, half surrogate pairs. All can read every output."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.jobs import run_job
from support.loopback import Peer, Server

from dbllm import Client, bulk
from dbllm.testing import FaultServer

NAN, INF = float("nan"), float("inf")
TEN = [{"text": f"row {place}", "x": value} for place, value in enumerate([NAN, INF, -INF, 1.5, None])]
TEN += [{"text": "row 5", "x": [1.0, NAN, {"y": INF}]}, {"text": "row 6", "x": "NaN and Infinity"}]
PLAIN = [None, None, None, 1.5, None, [1.0, None, {"y": None}], "NaN and Infinity"]


def strictly(path: Path) -> list[dict[str, Any]]:
    """The rows, read as JSON and nothing more; bytes that are no UTF-8 raise."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_bytes().decode().splitlines()]


def test_numbers_that_json_does_not_have_are_null_and_counted_whatever_the_input_is(
    server: FaultServer, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEN))
    sources: dict[str, Any] = {"jsonl": tmp_path / "in.jsonl", "iterable": TEN, "generator": (row for row in TEN)}
    for name, source in sources.items():
        report = run_job(server, source, tmp_path / f"{name}.out.jsonl")
        rows = strictly(tmp_path / f"{name}.out.jsonl")
        assert [row["x"] for row in rows] == PLAIN, name
        assert [row["output"] for row in rows] == [f"Say row {place}" for place in range(7)], name
        assert "5 numbers were NaN or infinite" in str(report), name
    clean = run_job(server, [TEN[3], TEN[6]], tmp_path / "clean.jsonl")
    assert "infinite" not in str(clean)


def test_parquet_has_these_numbers_and_keeps_them(server: FaultServer, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="the extra `bulk` is not installed")
    import pyarrow

    values = [1.5, NAN, INF, None]
    rows = [{"text": f"row {n}", "x": value, "deep": {"z": [value]}} for n, value in enumerate(values)]
    pq.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    report = run_job(server, tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert [(row["x"], row["deep"]) for row in strictly(tmp_path / "out.jsonl")] == [
        (1.5, {"z": [1.5]}),
        *[(None, {"z": [None]})] * 3,
    ]
    assert "4 numbers were NaN" in str(report)
    run_job(server, tmp_path / "in.parquet", tmp_path / "out.parquet")
    kept = [row["x"] for row in pq.read_table(tmp_path / "out.parquet").to_pylist()]
    assert (kept[0], math.isnan(kept[1]), kept[2], kept[3]) == (1.5, True, INF, None)
    mixed = [{"text": "a", "x": {"y": NAN}}, {"text": "b", "x": "text"}]  # one column of JSON texts
    run_job(server, mixed, tmp_path / "mixed.parquet")
    assert [row["x"] for row in pq.read_table(tmp_path / "mixed.parquet").to_pylist()] == ['{"y": null}', "text"]


def test_a_csv_file_holds_texts_and_they_stay_texts(server: FaultServer, tmp_path: Path) -> None:
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "x"], ["row 0", "NaN"], ["row 1", "-Infinity"], ["row 2", "1e999"]])
    run_job(server, tmp_path / "in.csv", tmp_path / "out.jsonl")
    assert [row["x"] for row in strictly(tmp_path / "out.jsonl")] == ["NaN", "-Infinity", "1e999"]


def test_a_number_too_large_for_a_float_is_kept_as_it_was_written(server: FaultServer, tmp_path: Path) -> None:
    line = '{"text": "a", "x": 1e999, "y": "NaN"}'  # this is JSON, although Python reads it as infinite
    (tmp_path / "in.jsonl").write_text(line + "\n")
    run_job(server, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text().startswith(line[:-1])


def test_what_a_model_predicts_may_hold_them_too(serve: Callable[..., Server], tmp_path: Path) -> None:
    def play(peer: Peer) -> None:
        for _ in iter(peer.request, None):
            peer.send(b'HTTP/1.1 200 OK\r\ncontent-length: 29\r\n\r\n{"predictions":[{"p":  NaN}]}')

    with Client(serve(play).host, "t") as client:
        endpoint = client.endpoint("m", task=None)
        for batch in (False, True):
            rows = [{"a": 1}] if not batch else [{"custom_id": "1", "url": "/x", "body": {"inputs": [1]}}]
            output = tmp_path / f"{batch}.jsonl"
            report = bulk.run_sync(rows, output, endpoint=endpoint, verb="predict", max_error_rate=1)
            assert strictly(output), report
            assert "NaN" not in output.read_text()


def test_rows_of_python_values_are_written_as_what_they_are(server: FaultServer, tmp_path: Path) -> None:
    class Scalar:
        def tolist(self) -> int:
            return 7

    at = datetime(2026, 1, 2, tzinfo=timezone.utc)
    row = {"text": "a", "at": at, "sum": Decimal("1.50"), "raw": b"\xc3\xa9", "n": Scalar(), 3: True}
    run_job(server, [row], tmp_path / "out.jsonl")
    [kept] = strictly(tmp_path / "out.jsonl")
    assert [kept[name] for name in ("at", "sum", "raw", "n", "3")] == [str(at), "1.50", "é", 7, True]
    for bad, said in (({("a", 1): 2}, "row 2 cannot be written as JSON: keys must be str"), (7, "it is of type int")):
        with pytest.raises(TypeError, match=said):
            run_job(server, [row, bad], tmp_path / "bad.jsonl")
    assert not list(tmp_path.glob("bad*"))


def test_lines_that_are_no_utf8_are_bad_rows_and_marks_of_byte_order_no_part_of_a_row(
    server: FaultServer, tmp_path: Path
) -> None:
    lines = [b'{"text": "a"}', b'\xef\xbb\xbf{"text": "b"}', b'{"text": "\xed\xa0\xbd"}', b'{"text": "\\ud83d"}']
    lines.append('{"text": "e"}'.encode("utf-16-be"))
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    run_job(server, tmp_path / "in.jsonl", tmp_path / "out.jsonl", keep_bad_rows=True)
    rows = strictly(tmp_path / "out.jsonl")
    assert [row["error"] is None for row in rows] == [True, True, False, False, False]
    assert "no UTF-8" in rows[2]["error"]["message"]
    assert "surrogate" in rows[3]["error"]["message"]
    assert [row["output"] for row in rows[:2]] == ["Say a", "Say b"]
