"""Inputs and outputs of every format, and what is refused before anything is paid."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.jobs import read_rows, run_job, write_prompts

from dbllm import AsyncClient, Client, NotFoundError, bulk
from dbllm.bulk.inputs import open_zst
from dbllm.testing import FaultServer

ROWS = [{"text": "one, with a comma"}, {"text": 'a "quoted"\nline'}, {"text": "é😀"}]


def jsonl() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def comma_separated(delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["text"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def zst(data: bytes) -> bytes:
    pytest.importorskip("zstandard", reason="the extra `bulk` is not installed")
    packed = io.BytesIO()
    with open_zst(packed, "wb") as stream:
        stream.write(data)
    return packed.getvalue()


def parquet(rows: list[dict[str, Any]], path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `bulk` is not installed")
    from pyarrow.parquet import write_table

    write_table(pyarrow.Table.from_pylist(rows), path)


def test_each_text_format_is_read_whole_or_packed(server: FaultServer, tmp_path: Path) -> None:
    files = {
        "a.jsonl": jsonl(),
        "b.ndjson": b"\xef\xbb\xbf\r\n" + jsonl().replace(b"\n{", b"\r\n\r\n{"),
        "c.csv": b"\xef\xbb\xbf" + comma_separated(),
        "d.tsv": comma_separated("\t"),
        "e.jsonl.gz": gzip.compress(jsonl()),
        "f.csv.gz": gzip.compress(comma_separated()),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        report = run_job(server, tmp_path / name, tmp_path / f"{name}.out.jsonl")
        answers = [row["output"] for row in read_rows(tmp_path / f"{name}.out.jsonl")]
        assert answers == [f"Say {row['text']}" for row in ROWS], name
        assert report.ok, name


def test_zst_is_read_and_written(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.zst").write_bytes(zst(jsonl()))
    run_job(server, tmp_path / "in.jsonl.zst", tmp_path / "out.jsonl.zst")
    with open_zst(io.BytesIO((tmp_path / "out.jsonl.zst").read_bytes()), "rb") as stream:
        rows = [json.loads(line) for line in stream.read().splitlines()]
    assert [row["output"] for row in rows] == [f"Say {row['text']}" for row in ROWS]


def test_gz_is_written_the_same_each_time(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(jsonl())
    run_job(server, tmp_path / "in.jsonl", output := tmp_path / "out.jsonl.gz")
    before = output.read_bytes()
    output.unlink()
    run_job(server, tmp_path / "in.jsonl", output)
    assert output.read_bytes() == before
    assert len(gzip.decompress(before).splitlines()) == 3


def test_parquet_is_read_and_written_with_its_columns(server: FaultServer, tmp_path: Path) -> None:
    rows = [{**row, "number": place, "list": [place], "half": place / 2} for place, row in enumerate(ROWS)]
    parquet(rows, tmp_path / "in.parquet")
    run_job(server, tmp_path / "in.parquet", tmp_path / "out.parquet")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    found = table.to_pylist()
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert [row["output"] for row in found] == [f"Say {row['text']}" for row in ROWS]
    assert table.schema.field("number").type == "int64"
    run_job(server, tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert [row["list"] for row in read_rows(tmp_path / "out.jsonl")] == [[0], [1], [2]]


def test_rows_of_different_kinds_go_into_one_parquet_file(server: FaultServer, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra `bulk` is not installed")
    rows = [{"text": "a", "x": 1}, {"text": "b", "x": "two", "y": None}, {"text": "c", "x": {"z": [1]}}]
    run_job(server, rows, tmp_path / "out.parquet")
    import pyarrow.parquet

    found = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["x"] for row in found] == ["1", "two", '{"z": [1]}']
    assert [row["output"] for row in found] == ["Say a", "Say b", "Say c"]


def test_columns_of_the_input_win_and_are_kept_as_they_were_written(server: FaultServer, tmp_path: Path) -> None:
    line = '{"text": "a",  "output": 1.0e5, "error":"\\u00e9", "big": 123456789012345678901234567890}'
    (tmp_path / "in.jsonl").write_text(line + "\n{}\n")
    report = run_job(server, tmp_path / "in.jsonl", tmp_path / "out.jsonl", keep_bad_rows=True)
    written = (tmp_path / "out.jsonl").read_text().splitlines()
    assert written[0].startswith(line[:-1] + ',"dbllm_output":"Say a",')
    bad = json.loads(written[1])
    assert bad["dbllm_error"]["class"] == "RowInputError"
    assert (report.answered, report.failed, report.bad_rows) == (1, 1, 1)


def test_openai_batch_rows_give_openai_batch_answers(server: FaultServer, tmp_path: Path) -> None:
    def batch_row(place: int, url: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"custom_id": f"id {place}", "method": "POST", "url": url, "body": {"model": "x", **body}}

    rows = [
        batch_row(0, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}),
        batch_row(1, "/v1/embeddings", {"input": ["a", "b"]}),
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_job(server, tmp_path / "in.jsonl", tmp_path / "out.jsonl", prompt=None)
    chat, embedding = read_rows(tmp_path / "out.jsonl")
    assert (chat["custom_id"], chat["error"], chat["response"]["status_code"]) == ("id 0", None, 200)
    assert chat["response"]["body"]["choices"][0]["message"] == {"role": "assistant", "content": "hi"}
    assert chat["response"]["body"]["usage"]["total_tokens"] == 2
    assert [each["index"] for each in embedding["response"]["body"]["data"]] == [0, 1]


def refused(server: FaultServer, kind: type[bulk.BulkError], source: Any, output: Path, **options: Any) -> str:
    """The one sentence of a job that does not begin; nothing was sent, and nothing is left behind."""
    before = {path.name for path in output.parent.iterdir()} if output.parent.is_dir() else set()
    with pytest.raises(kind) as caught:
        run_job(server, source, output, **options)
    assert server.report().requests == 0
    if output.parent.is_dir():
        assert {path.name for path in output.parent.iterdir()} == before
    return str(caught.value)


def test_an_input_that_cannot_be_sent_is_refused_with_its_line(server: FaultServer, tmp_path: Path) -> None:
    good, batch = '{"text": "a"}\n', '{"custom_id": "a", "url": "/v1/chat/completions", "body": {"messages": "x"}}\n'
    table: dict[str, tuple[str, str, str]] = {  # name: (content, prompt, what is said)
        "broken.jsonl": (good * 2 + "{broken\n" + good, "{text}", "line 3: not JSON"),
        "list.jsonl": (good + "\n[1]\n", "{text}", "line 3: a JSON list"),
        "latin.jsonl": (good + '{"text": "\udce9"}\n', "{text}", "line 2: no UTF-8"),
        "column.jsonl": (good + '{"txt": "a"}\n', "{text}", "line 2: column 'text' of the prompt template is missing"),
        "null.jsonl": ('{"text": null}\n', "{text}", "line 1: column 'text' of the prompt template is empty"),
        "column.csv": ("text,other\na,b\n", "{txt}", "line 2: column 'txt'"),
        "short.csv": ('text,other\n"a\nb",c\nd\n', "{text}", "line 4: 1 values, and the header has 2"),
        "twice.csv": ("a,a\n1,2\n", "{a}", "two columns 'a'"),
        "quote.csv": ('text\n"a" b\n', "{text}", "line 2: "),
        "twice.jsonl": (
            batch + batch.replace('"a"', '"b"') + batch,
            "",
            "line 3: its custom_id is also that of line 1",
        ),
        "mixed.jsonl": (batch + good, "", "line 2: not in the shape of the first row"),
        "packed.jsonl.gz": (good, "{text}", "is not a whole gz file"),
        "no.parquet": (
            good,
            "{text}",
            "no Parquet file" if "pyarrow" in sys.modules or has_pyarrow() else "pip install",
        ),
        "unknown.txt": (good, "{text}", "no ending that tells its format"),
    }
    wrong = []
    for name, (content, prompt, said) in table.items():
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
        found = refused(server, bulk.BadInputError, tmp_path / name, tmp_path / "out.jsonl", prompt=prompt or None)
        if said not in found or "\n" in found.strip():
            wrong.append((name, found))
    assert not wrong


def has_pyarrow() -> bool:
    from importlib.util import find_spec

    return find_spec("pyarrow") is not None


def test_places_that_cannot_be_are_refused(server: FaultServer, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in.jsonl", 3)
    (tmp_path / "link.jsonl").symlink_to(source)
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "there.jsonl").write_text("precious")
    for output, said in {
        tmp_path / "missing" / "out.jsonl": "does not exist",
        source: "is the input itself",
        tmp_path / "link.jsonl": "is the input itself",
        tmp_path / "out.csv": "must be called",
        tmp_path / "folder.jsonl": "is a folder",
        tmp_path / "there.jsonl": "is of no known job",
    }.items():
        assert said in refused(server, bulk.OutputError, source, output), output
    assert (
        "no such file" in refused(server, bulk.InputMissingError, tmp_path / "no.jsonl", tmp_path / "o.jsonl").lower()
    )
    assert (tmp_path / "there.jsonl").read_text() == "precious"
    run_job(server, source, tmp_path / "there.jsonl", overwrite=True)
    assert len(read_rows(tmp_path / "there.jsonl")) == 3


def test_a_changed_input_or_setting_is_refused_until_it_is_accepted(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 10), tmp_path / "out.jsonl"
    run_job(server, source, output)
    os.utime(source, (1, 1))  # another time alone is no change
    run_job(server, source, output)
    assert server.report().executions == 10
    with pytest.raises(bulk.JournalError, match=r"began with prompt='Say {text}'"):
        run_job(server, source, output, prompt="Tell {text}")
    with pytest.raises(bulk.JournalError, match=r"began with params={}"):
        run_job(server, source, output, params={"max_tokens": 3})
    text = source.read_text()
    source.write_text(text.replace("row 4", "ROW 4") + '{"text": "row 10", "place": 10}\n')
    with pytest.raises(bulk.BadInputError, match="is not what the job of"):
        run_job(server, source, output)
    assert server.report().executions == 10
    report = run_job(server, source, output, accept_changes=True)
    assert [row["output"] for row in read_rows(output)] == [f"Say {'ROW' if n == 4 else 'row'} {n}" for n in range(11)]
    assert (server.report().executions, report.answered) == (12, 11)
    output.unlink()
    run_job(server, source, output)  # and from then on this is the job
    assert server.report().executions == 12


def test_a_journal_that_is_gone_or_alone_is_refused(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 10), tmp_path / "out.jsonl"
    run_job(server, source, output)
    journal, manifest = tmp_path / "out.jsonl.part", tmp_path / "out.jsonl.job.json"
    kept = journal.read_bytes()
    output.unlink()
    journal.unlink()
    with pytest.raises(bulk.JournalError, match="is gone"):
        run_job(server, source, output)
    journal.write_bytes(kept)
    about = manifest.read_bytes()
    manifest.unlink()
    with pytest.raises(bulk.JournalError, match="beside it"):
        run_job(server, source, output)
    manifest.write_bytes(b"{")
    with pytest.raises(bulk.JournalError, match="is no manifest"):
        run_job(server, source, output)
    manifest.write_bytes(about)
    assert run_job(server, source, output).answered == 10
    assert server.report().executions == 10


def test_an_endpoint_that_does_not_exist_fails_before_a_row_is_sent(tmp_path: Path, serve: Callable[..., Any]) -> None:
    def nothing(peer: Any) -> None:
        while peer.request():
            peer.answer({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such endpoint"}, 404)

    missing = serve(nothing)
    source = write_prompts(tmp_path / "in.jsonl", 3)
    with Client(missing.host, "token") as client, pytest.raises(NotFoundError):
        bulk.run_sync(source, tmp_path / "out.jsonl", endpoint="m", client=client, prompt="{text}")
    assert all(request.line.startswith("GET") for request in missing.requests)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


def test_an_endpoint_that_does_not_exist_is_told_with_those_that_do(tmp_path: Path, serve: Callable[..., Any]) -> None:
    def listing(peer: Any) -> None:
        while request := peer.request():
            if request.line.split(" ")[1].endswith("/serving-endpoints"):
                peer.answer({"endpoints": [{"name": "smollm2-chat"}, {"name": "dolly"}]})
            else:
                peer.answer({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such endpoint"}, 404)

    source = write_prompts(tmp_path / "in.jsonl", 1)
    host = serve(listing).host
    with Client(host, "token") as client:
        for one in (client, AsyncClient(host, "token")):
            with pytest.raises(NotFoundError, match="Did you mean 'smollm2-chat'"):
                bulk.run_sync(source, tmp_path / "out.jsonl", endpoint="smollm2-chatt", client=one, prompt="{text}")


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path, script: Callable[..., str]) -> None:
    said = script(
        f"""
import sys
sys.modules["pyarrow"] = None
from dbllm import bulk
try:
    bulk.run_sync(["a"], {str(tmp_path / "out.parquet")!r}, endpoint="m", host="http://127.0.0.1:9")
except bulk.BadInputError as error:
    print(error)
"""
    )
    assert "pip install 'dbllm[bulk]'" in said


def test_no_rows_are_a_job_too(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n")
    report = run_job(server, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert (report.rows, report.ok, (tmp_path / "out.jsonl").read_bytes()) == (0, True, b"")


def test_an_estimate_counts_rows_tokens_and_cost_and_sends_nothing(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in.jsonl", 100, same=20)
    with source.open("a") as file:
        file.write("nonsense\n")
    found = bulk.estimate(source, prompt="Say {text}", params={"max_tokens": 50}, price=(1.0, 2.0))
    assert (found.rows, found.distinct, found.bad) == (101, 80, 1)
    assert found.problems[0][0] == 101
    assert found.output_tokens == 80 * 50
    assert found.input_tokens == pytest.approx(80 * len("Say row 99") / 3.6, rel=0.05)
    assert found.cost == pytest.approx(found.input_tokens / 1e6 + 8000 / 1e6)
    text = str(found)
    assert "line 101: not JSON" in text
    assert "bytes of what is asked / 3.6" in text
    assert bulk.estimate(["a"]).output_tokens is None


def test_an_estimate_trusts_max_tokens_only_where_the_model_keeps_to_it(serve: Callable[..., Any]) -> None:
    tasks = {"chat": "llm/v1/chat", "agent": "agent/v1/chat", "responses": "agent/v1/responses", "custom": "none"}
    tasks |= {"vectors": "llm/v1/embeddings"}

    def play(peer: Any) -> None:
        for request in iter(peer.request, None):
            name = request.line.split()[1].rsplit("/", 1)[-1]
            if name not in tasks:
                peer.answer({"error_code": "RESOURCE_DOES_NOT_EXIST"}, 404)
            elif tasks[name] == "none":
                peer.answer({"name": name})
            else:
                peer.answer({"name": name, "task": tasks[name]})

    workspace = serve(play)
    options: dict[str, Any] = {"params": {"max_tokens": 50}, "price": (1.0, 1.0)}
    wrong = []
    with Client(workspace.host, "t") as client:
        table: list[tuple[dict[str, Any], int | None, str]] = [  # options, output tokens, what is said
            ({"endpoint": client.endpoint("chat")}, 100, "(the sum of max_tokens)"),
            ({"endpoint": client.endpoint("agent")}, None, "an agent does not keep to max_tokens"),
            ({"endpoint": client.endpoint("responses")}, None, "an agent does not keep to max_tokens"),
            ({"endpoint": client.endpoint("custom")}, None, "a custom model need not keep to"),
            ({"endpoint": client.endpoint("vectors")}, 0, "embeddings have none"),
            ({"endpoint": client.endpoint("missing")}, 100, "an agent may make more"),
            ({"endpoint": "chat", "host": "http://127.0.0.1:9"}, 100, "an agent may make more"),
            ({"driver_app": 3000}, None, "a driver app need not keep to max_tokens"),
            ({}, 100, "an agent may make more"),
            ({"verb": "respond"}, None, "do not keep to max_tokens"),
            ({"verb": "predict"}, None, "do not keep to max_tokens"),
            ({"verb": "embed"}, 0, "embeddings have none"),
        ]
        for more, tokens, said in table:
            found = bulk.estimate([{"prompt": "a"}, {"prompt": "b"}], **options, **more)
            if found.output_tokens != tokens or said not in str(found) or (found.cost is None) != (tokens is None):
                wrong.append((more, found, str(found)))
    assert not wrong, wrong
    assert all(request.line.startswith("GET") for request in workspace.requests)
    batch = [{"custom_id": "a", "url": "/v1/responses", "body": {"input": "a", "max_tokens": 5}}]
    assert bulk.estimate(batch).output_tokens is None


def test_the_standard_input_is_read_once_and_kept_for_the_next_call(tmp_path: Path, server: FaultServer) -> None:
    program = (
        "import sys; from dbllm import bulk; "
        f"bulk.run_sync('-', {str(tmp_path / 'out.jsonl')!r}, endpoint='m', prompt='Say {{text}}')"
    )
    environment = {**os.environ, "DATABRICKS_HOST": server.host, "DATABRICKS_TOKEN": "t"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", program], input=jsonl(), env=environment, check=True, timeout=60)
    assert [row["output"] for row in read_rows(tmp_path / "out.jsonl")] == [f"Say {row['text']}" for row in ROWS]


def test_a_client_of_ones_own_stays_open(server: FaultServer, tmp_path: Path) -> None:
    import asyncio

    async def play() -> None:
        async with AsyncClient(server.host, "token") as client:
            await bulk.run(["a"], tmp_path / "out.jsonl", endpoint="m", client=client)
            assert (await client.endpoint("m", task="chat").chat("again")).text == "again"

    asyncio.run(play())


def test_a_packed_file_that_was_cut_or_changed_is_refused_whole(server: FaultServer, tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"row {place * 7919}"}) + "\n" for place in range(4000)).encode()
    packers: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress}
    if find_spec("zstandard") is not None or sys.version_info >= (3, 14):
        packers["zst"] = zst
    for kind, pack in packers.items():
        packed, middle = pack(rows), len(pack(rows)) // 2
        changed = packed[:middle] + bytes(byte ^ 255 for byte in packed[middle : middle + 8]) + packed[middle + 8 :]
        path = tmp_path / f"in.jsonl.{kind}"
        cut = (packed[:middle], packed[:-1], packed[:3], packed + b"more")
        for content in (*cut, changed) if kind == "gz" else cut:  # zst has a checksum only where one was asked for
            path.write_bytes(content)
            said = refused(server, bulk.BadInputError, path, tmp_path / "out.jsonl", prompt="{text}")
            assert f"is not a whole {kind} file" in said
        path.write_bytes(pack(rows) + pack(rows))  # two of them are one
        assert bulk.estimate(path, prompt="{text}").rows == 8000


def test_no_file_of_a_job_is_written_over_another(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    (tmp_path / "link").symlink_to(source)
    hidden = write_prompts(tmp_path / "out.jsonl.plan", 3)
    draft = write_prompts(tmp_path / "out.jsonl.new", 3)
    table: list[tuple[Path, dict[str, Any], str]] = [
        (source, {"journal": source, "overwrite": True}, "the journal, and is the input"),
        (source, {"journal": tmp_path / "link"}, "the journal, and is the input"),
        (source, {"journal": output}, "the journal, and is the output"),
        (source, {"report": source}, "the report, and is the input"),
        (source, {"report": output}, "the report, and is the output"),
        (source, {"report": tmp_path / "out.jsonl.part"}, "the report, and is the journal"),
        (source, {"report": tmp_path}, "is a folder"),
        (hidden, {"input_format": "jsonl"}, "the plan, and is the input"),
        (draft, {"input_format": "jsonl"}, "the draft of out.jsonl, and is the input"),
    ]
    kept = source.read_bytes()
    for path, options, said in table:
        assert said in refused(server, bulk.OutputError, path, output, **options), said
        assert path.read_bytes() == kept


def test_a_report_that_cannot_be_written_is_told_and_the_answers_are_kept(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    with pytest.raises(bulk.OutputError, match=r"the report .* cannot be written"):
        run_job(server, source, output, report=tmp_path / ("long" * 100))
    assert len(read_rows(output)) == 3
    run_job(server, source, output, report=tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert server.report().executions == 3


def test_arguments_that_cannot_be_used_leave_no_file(server: FaultServer, tmp_path: Path) -> None:
    source, output = write_prompts(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    for options, error in (
        ({"concurrency": 0}, ValueError),
        ({"max_error_rate": 2}, ValueError),
        ({"price": ("a", 1)}, ValueError),
        ({"price": (1,)}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"prompt": 5}, TypeError),
        ({"input_format": "xml"}, ValueError),
    ):
        refused(server, error, source, output, **options)


def test_an_unreadable_first_line_does_not_hide_the_batch_shape(server: FaultServer, tmp_path: Path) -> None:
    def asked(name: object) -> str:
        body = {"messages": [{"role": "user", "content": "hello"}]}
        return json.dumps({"custom_id": name, "url": "/v1/chat/completions", "body": body}) + "\n"

    (tmp_path / "in.jsonl").write_text("{broken\n" + asked("a") + asked(None) + asked("b"))
    report = run_job(server, tmp_path / "in.jsonl", tmp_path / "out.jsonl", prompt=None, keep_bad_rows=True)
    rows = read_rows(tmp_path / "out.jsonl")
    assert (report.answered, report.bad_rows) == (2, 2)
    assert [row["custom_id"] for row in rows] == [None, "a", None, "b"]
    assert [row["error"] is None for row in rows] == [False, True, False, True]


def test_a_number_that_is_none_is_an_empty_column_and_the_error_row_names_it(
    server: FaultServer, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": NaN}\n{"text": 1.5}\n{"other": 1}\n')
    found = refused(server, bulk.BadInputError, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert "line 1: column 'text' of the prompt template is empty" in found
    run_job(server, tmp_path / "in.jsonl", tmp_path / "out.jsonl", keep_bad_rows=True)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert "line 1: column 'text' of the prompt template is empty in this row." in lines[0]
    assert '"output":"Say 1.5"' in lines[1]
    assert "line 3: column 'text' of the prompt template is missing" in lines[2]


def test_a_column_of_ours_never_has_the_name_of_one_of_the_input(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a", "output": 1, "dbllm_output": 2}\n')
    run_job(server, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    pairs = json.loads((tmp_path / "out.jsonl").read_text(), object_pairs_hook=list)
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names))
    assert ("dbllm_dbllm_output", "Say a") in pairs


def test_values_that_parquet_has_no_form_for_are_written_as_text(server: FaultServer, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="the extra `bulk` is not installed")
    rows: list[dict[str, Any]] = [
        {"text": "a", "v": {}, "w": 2**70, "x": [{}], "y": "\ud83d", "z": 2**62 + 1},
        *({"text": f"b{place}", "v": {}, "w": 1, "x": [], "y": "y", "z": 1} for place in range(1000)),
        {"text": "c", "z": 0.5},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_job(server, tmp_path / "in.jsonl", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    first = {name: table[0][name] for name in "vwxyz"}
    assert first == {"v": "{}", "w": str(2**70), "x": "[{}]", "y": "?", "z": float(2**62)}
    assert [row["output"] for row in table] == [f"Say {row['text']}" for row in rows]


def test_a_damaged_parquet_file_is_a_bad_input(server: FaultServer, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra `bulk` is not installed")
    path = tmp_path / "in.parquet"
    parquet([{"text": f"row {place}"} for place in range(500)], path)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xaa" * 40 + whole[44:])
    found = refused(server, bulk.BadInputError, path, tmp_path / "out.jsonl", prompt="{text}")
    assert "no Parquet file that can be read" in found


def test_journals_in_one_folder_keep_jobs_apart_whose_outputs_have_one_name(
    server: FaultServer, tmp_path: Path
) -> None:
    jobs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        source = write_prompts(tmp_path / name / "in.jsonl", 5, words=name)
        jobs.append((source, tmp_path / name / "out.jsonl", tmp_path / f"{name}.part"))
    for again in (False, True):
        for source, output, journal in jobs:
            if again:
                output.unlink()
            run_job(server, source, output, journal=journal)
            assert [row["output"] for row in read_rows(output)] == [f"Say {output.parent.name} {n}" for n in range(5)]
            assert {path.name for path in output.parent.iterdir()} == {"in.jsonl", "out.jsonl"}
    assert server.report().executions == 10
