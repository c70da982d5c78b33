"""What people hand in as rows: spreadsheets, JSON documents, files of other kinds, files that are open."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.jobs import read_rows, run_job

from dbllm import Client, bulk
from dbllm.testing import FaultServer

OBJECTS = [{"text": "a"}, {"text": "b"}]


def test_what_is_no_text_of_rows_is_named_before_anything_is_sent(server: FaultServer, tmp_path: Path) -> None:
    table: dict[str, tuple[bytes, str]] = {
        "list.json": (json.dumps(OBJECTS).encode(), "line 1: a whole JSON document begins here"),
        "pretty.json": (json.dumps(OBJECTS, indent=2).encode(), "line 1: a whole JSON document begins here"),
        "object.json": (b"\n" + json.dumps(OBJECTS[0], indent=2).encode(), "line 2: a whole JSON document begins here"),
        "utf16.jsonl": ('{"text": "a"}\n'.encode("utf-16"), "is UTF-16: save it as UTF-8"),
        "utf16.csv": ("text\na\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        "gz.jsonl": (gzip.compress(b'{"text": "a"}\n'), "is packed by gzip: call it .gz"),
        "zst.csv": (b"\x28\xb5\x2f\xfd\x00", "is packed by zstd: call it .zst"),
        "parquet.jsonl": (b"PAR1....", "is Parquet: call it .parquet"),
        "sheet.csv": (b"PK\x03\x04....", "or a spreadsheet: save it as CSV"),
        "late.csv": (b"text\n" + b"a line\n" * 5000 + b"caf\xe9\n", "line 5002: no UTF-8"),
        "late.csv.gz": (gzip.compress(b"text\n" + b"a line\n" * 5000 + b"caf\xe9\n"), "line 5002: no UTF-8"),
        "odd.csv": (b"text\x00,n\na,1\n", r"columns: 'text\x00', n."),
        "spaces.csv": (b" text,n\na,1\n", "columns: ' text', n."),
        "uneven.csv": (b"text,n\na,1\nb\nc,2\nd,3,4\n", "line 5: 3 values, and the header has 2"),
        "half.jsonl": (b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2: text that is not Unicode"),
    }
    wrong = []
    for name, (content, said) in table.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(bulk.BadInputError) as caught:
            run_job(server, tmp_path / name, tmp_path / "out.jsonl", prompt="{text}")
        if said not in (found := str(caught.value)) or "\n" in found:
            wrong.append((name, found))
    assert not wrong
    assert server.report().requests == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(table)


def test_csv_may_be_parted_as_spreadsheets_write_it(server: FaultServer, tmp_path: Path) -> None:
    table = {
        "semicolons.csv": '\ufefftext;n\n"one, two; three";1\n',
        "tabs.csv": "text\tn\none, two; three\t1\n",
        "commas.csv": 'text,n;m\n"one, two; three",1\n',
        "one.csv": 'text\n"one, two; three"\n',
        "crlf.csv": "text;n\r\none, two\r\n",
    }
    for name, content in table.items():
        if name == "crlf.csv":
            content = content.replace("one, two", '"one, two; three";1')
        (tmp_path / name).write_bytes(content.encode())
        run_job(server, tmp_path / name, output := tmp_path / f"{name}.jsonl", prompt="{text}")
        (row,) = read_rows(output)
        assert row["output"] == row["text"] == "one, two; three", name


def test_rows_of_csv_without_all_values_become_error_rows_if_bad_rows_are_kept(
    server: FaultServer, tmp_path: Path
) -> None:
    (source := tmp_path / "in.csv").write_text('text,n\na,1\n"b, c"\nd,2,3\ne,4\n')
    report = run_job(server, source, tmp_path / "out.jsonl", prompt="{text}", keep_bad_rows=True)
    rows = read_rows(tmp_path / "out.jsonl")
    assert (report.answered, report.bad_rows) == (2, 2)
    assert [row["output"] for row in rows] == ["a", None, None, "e"]
    assert [row.get("line") for row in rows] == [None, '"b, c"', "d,2,3", None]
    assert "line 3: 1 values, and the header has 2" in rows[1]["error"]["message"]
    assert bulk.estimate(source, prompt="{text}").problems[1][0] == 4


def test_a_file_that_is_open_is_read_as_the_file_it_is(server: FaultServer, tmp_path: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in OBJECTS)
    (tmp_path / "in.jsonl").write_text(text)
    opened: dict[str, Callable[[], Any]] = {
        "text": lambda: (tmp_path / "in.jsonl").open(encoding="utf-8"),
        "bytes": lambda: (tmp_path / "in.jsonl").open("rb"),
        "StringIO": lambda: io.StringIO(text),
        "BytesIO": lambda: io.BytesIO(text.encode()),
    }
    for name, make in opened.items():
        with make() as file:
            run_job(server, file, tmp_path / f"{name}.jsonl", prompt="{text}")
        assert [row["output"] for row in read_rows(tmp_path / f"{name}.jsonl")] == ["a", "b"], name
    with pytest.raises(TypeError, match="an iterable of rows, got bytes"):
        run_job(server, b"a", tmp_path / "none.jsonl")


def test_a_standard_input_that_is_closed_is_told(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(bulk.InputMissingError, match="the standard input is closed"):
        run_job(server, "-", tmp_path / "out.jsonl")


def test_a_template_that_cannot_be_meant_is_explained(server: FaultServer, tmp_path: Path) -> None:
    (source := tmp_path / "in.jsonl").write_text(json.dumps({f"c{place}": 1 for place in range(500)}) + "\n")
    for prompt, said in (
        ('{"a": "{text}"}', "written twice: {{ }}"),
        ("{text:>10}", "column 'text:>10' of the prompt template is missing"),
        ("{text}", "c18, c19, and 480 more."),
    ):
        with pytest.raises(bulk.BadInputError) as caught:
            run_job(server, source, tmp_path / "out.jsonl", prompt=prompt)
        assert said in str(caught.value)
        assert len(str(caught.value)) < 500
    with pytest.raises(ValueError, match="the prompt template is empty"):
        run_job(server, source, tmp_path / "out.jsonl", prompt="")


def test_an_error_row_says_of_each_row_that_cannot_be_sent_what_the_dry_run_says(
    server: FaultServer, tmp_path: Path
) -> None:
    batch = {"custom_id": "a", "url": "/v1/chat/completions", "body": {"messages": "hello"}}
    files = {
        "plain": [{"prompt": "a"}, {"messages": []}, {"prompt": 5}, {"other": 1}, batch, [1]],
        "batch": [batch, {**batch, "custom_id": "b", "body": {"messages": []}}, {"prompt": "a"}],
    }
    for name, rows in files.items():
        (source := tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = bulk.estimate(source, endpoint=Client(server.host, "token").endpoint("m", task="chat"))
        output = tmp_path / f"{name}.out.jsonl"
        for _ in range(2):  # the second time it is made anew, of the journal alone
            run_job(server, source, output, prompt=None, keep_bad_rows=True)
            said = [row["error"]["message"] for row in read_rows(output) if row["error"]]
            assert said == [f"line {line}: {problem.removesuffix('.')}." for line, problem in found.problems]
            assert len(said) == len(rows) - 1
            output.unlink()


def test_a_dry_run_asks_of_rows_what_the_job_would_and_says_if_there_is_no_such_endpoint(
    serve: Callable[..., Any],
) -> None:
    tasks = {"custom": None, "responses": "agent/v1/responses", "vectors": "llm/v1/embeddings"}

    def play(peer: Any) -> None:
        for request in iter(peer.request, None):
            name = request.line.split()[1].rsplit("/", 1)[-1]
            if name in tasks:
                peer.answer({"name": name} | ({"task": tasks[name]} if tasks[name] else {}))
            else:
                peer.answer({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no endpoint {name}"}, 404)

    host = serve(play).host
    feature, conversation, text = {"x": 1}, {"input": [{"role": "user", "content": "hi"}]}, {"input": "hi"}
    table: list[tuple[str, Any, int]] = [  # endpoint, row, bad rows
        ("custom", feature, 0),
        ("responses", conversation, 0),
        ("responses", feature, 1),
        ("vectors", text, 0),
        ("vectors", feature, 1),
    ]
    with Client(host, "t") as client:
        for name, row, bad in table:
            assert bulk.estimate([row], endpoint=client.endpoint(name)).bad == bad, (name, row)
        found = str(bulk.estimate([{"prompt": "a"}], endpoint=client.endpoint("nope")))
    assert "the endpoint could not be looked up: HTTP 404 RESOURCE_DOES_NOT_EXIST" in found
    assert found.startswith("1 row, 1 distinct, 0 bad")
    assert "embeddings" not in str(bulk.estimate([]))


def test_parquet_files_of_jobs_have_the_same_types_whatever_became_of_their_rows(
    server: FaultServer, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="the extra `bulk` is not installed")
    from pyarrow import concat_tables
    from pyarrow.parquet import read_table

    inputs = {
        "answered": [{"text": "a", "n": {"x": None, "y": [None]}}],
        "bad": [{"text": None, "n": None}],
        "same": [{"text": "b", "n": None}] * 2,
        "none": [],
    }
    tables = {}
    for name, rows in inputs.items():
        run_job(server, rows, tmp_path / f"{name}.parquet", prompt="{text}", keep_bad_rows=True)
        tables[name] = read_table(tmp_path / f"{name}.parquet")
    own = ["finish_reason", "input_tokens", "model", "request_id", "attempts", "latency", "same_as", "error"]
    joined = concat_tables([tables[name].select(own) for name in inputs])
    assert joined.column("same_as").to_pylist() == [None, None, None, 1]
    assert [error and error["class"] for error in joined.column("error").to_pylist()] == [
        None, "RowInputError", None, None,
    ]  # fmt: skip
    assert "null" not in str(tables["answered"].schema.field("n").type)
