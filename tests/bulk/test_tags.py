"""Tags: the rows of a job carry those of the job, as calls carry theirs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.loopback import Peer, Server
from support.samples import chat_answer, vectors_answer

from dbllm import AsyncClient, Client, bulk
from dbllm._protocol.requests import TAGS

ANSWERS: dict[str, Any] = {
    "complete": {"choices": [{"text": "hi", "index": 0, "finish_reason": "stop"}]},
    "chat": chat_answer(),
    "embed": vectors_answer([0.5]),
    "predict": {"predictions": [1]},
    "respond": {"id": "r", "status": "completed", "output": []},
}
TASKS = {"complete": "completions", "chat": "chat", "embed": "embeddings", "predict": "custom", "respond": "responses"}
MINE = {"project": "x", "team": "y"}


def answering(answer: Any) -> Callable[[Peer], None]:
    def play(peer: Peer) -> None:
        while peer.request():
            peer.answer(answer)

    return play


def tags_of(server: Server) -> list[Any]:
    return [json.loads(request.headers.get(TAGS, "null")) for request in server.requests]


def test_every_verb_and_every_way_of_asking_sends_them(tmp_path: Path) -> None:
    wrong = []
    for verb, answer in ANSWERS.items():
        server = Server((answering(answer),))
        row: Any = [{"a": 1}] if verb == "predict" else "hi"
        rows = [{"dataframe_records": row}] if verb == "predict" else [row]
        client = AsyncClient(server.host, "t", tags={"project": "of the client", "by": "z"})
        handle = client.endpoint("m", task=TASKS[verb])

        async def ask(handle: Any = handle, verb: str = verb, rows: Any = rows) -> None:
            async for _ in bulk.rows(handle, rows, verb=verb, tags=MINE):
                pass
            await bulk.RowMapper(handle=handle, verb=verb, tags=MINE)(rows[0])
            await bulk.run(rows, tmp_path / f"{verb}.jsonl", endpoint=handle, verb=verb, tags=MINE)
            async for _ in bulk.rows(handle, rows, verb=verb):
                pass

        anyio.run(ask)
        with Client(server.host, "t") as plain:
            bulk.RowMapper(handle=plain.endpoint("m", task=TASKS[verb]), verb=verb, tags=MINE).call(rows[0])
        server.close()
        merged = {"project": "x", "by": "z", "team": "y"}
        expected = [merged, merged, merged, {"project": "of the client", "by": "z"}, MINE]
        if tags_of(server) != expected:
            wrong.append((verb, tags_of(server)))
    assert not wrong


def test_they_travel_with_a_mapper_and_make_no_other_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server((answering(chat_answer()),))
    monkeypatch.setenv("DATABRICKS_HOST", server.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", "t")
    mapper = pickle.loads(pickle.dumps(bulk.RowMapper("m", verb="chat", tags=MINE)))
    assert mapper.call("hi").error is None
    assert mapper.tags == MINE
    output = tmp_path / "out.jsonl"
    for tags in (MINE, None, {"project": "another"}):  # a finished job is not asked again for its tags
        client = AsyncClient(server.host, "t")
        report = bulk.run_sync(["a", "b"], output, endpoint=client.endpoint("m", task="chat"), verb="chat", tags=tags)
        assert report.answered == 2
    server.close()
    assert tags_of(server)[-2:] == [MINE, MINE]


def test_what_are_no_tags_is_said_before_a_row_is_sent() -> None:
    for tags in ("project", ["project"], {"project": 5}, {5: "x"}):
        with pytest.raises(TypeError, match=r"tags must be a dict|that is no text but int"):
            bulk.RowMapper("m", tags=tags)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a driver app takes no tags"):
        bulk.RowMapper(driver_app=7777, tags=MINE)
