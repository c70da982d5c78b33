"""An endpoint that refuses every row ends a job early: nothing is paid, no row is lost, and the same call goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.jobs import read_rows, run_job, write_prompts
from support.loopback import Peer, Request, Server

from dbllm import Client, ConfigError, Retry, bulk
from dbllm.bulk.failures import FIRST_REFUSALS, LATER_REFUSALS

ROWS = 400
OK = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}}]}
FOUND = {"name": "m", "task": "llm/v1/chat"}


class Refusing:
    """A server that answers so many calls, and then refuses with `status` and `body` as long as `refuses` is set."""

    def __init__(self, serve: Callable[..., Server], status: int, body: Any, *, after: int = 0) -> None:
        self.status, self.body, self.after, self.refuses = status, body, after, True
        self.calls = self.answered = 0
        self._server = serve(self._play)
        self.host = self._server.host

    def _play(self, peer: Peer) -> None:
        for request in iter(peer.request, None):
            peer.answer(*self._answer(request))

    def _answer(self, request: Request) -> tuple[Any, int]:
        if request.line.startswith("GET"):
            return FOUND, 200
        with self._server.lock:
            self.calls += 1
            refused = self.refuses and (self.answered >= self.after or self.is_bad(request))
            self.answered += not refused
        body = self.body(self.calls) if callable(self.body) else self.body
        return (body, self.status) if refused else (OK, 200)

    def is_bad(self, request: Request) -> bool:
        return False


def error(code: str, message: str) -> dict[str, str]:
    return {"error_code": code, "message": message}


WRONG_VERB = error("BAD_REQUEST", "Missing required Chat parameter: 'messages'")
REFUSALS: list[tuple[int, Any, int, str]] = [  # status, body, answers before it, what is said
    (401, error("UNAUTHENTICATED", "no credentials"), 0, "HTTP 401 UNAUTHENTICATED"),
    (403, error("PERMISSION_DENIED", "Invalid access token."), 0, "Invalid access token"),
    (403, lambda n: error("PERMISSION_DENIED", f"request {n} is not allowed"), 0, "is not allowed"),
    (400, WRONG_VERB, 0, "Missing required Chat parameter"),
    (404, error("RESOURCE_DOES_NOT_EXIST", "The endpoint 'm' does not exist."), 120, "does not exist"),
    (403, error("PERMISSION_DENIED", "Your token was revoked."), 120, "was revoked"),
]


def test_a_job_whose_rows_are_all_refused_ends_early_and_goes_on_when_the_cause_is_mended(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    for place, (status, body, after, said) in enumerate(REFUSALS):
        (folder := tmp_path / str(place)).mkdir()
        server: Any = Refusing(serve, status, body, after=after)
        source, output = write_prompts(folder / "in.jsonl", ROWS), folder / "out.jsonl"
        with pytest.raises(bulk.EveryRowRefused, match=said) as caught:
            run_job(server, source, output, concurrency=4)
        most = (LATER_REFUSALS if after else FIRST_REFUSALS) + 4
        assert server.calls - server.answered <= most, status
        assert "Nothing was paid" in str(caught.value)
        assert (caught.value.exit_code, caught.value.report.answered) == (77, after)
        # Of four calls at once, a refusal may arrive before the last answer: it is an error row like any other.
        assert caught.value.report.failed <= (3 if after else 0)
        assert not output.exists()
        server.refuses = False
        report = run_job(server, source, output, retry_errors=True)
        assert (report.answered, report.failed, server.answered) == (ROWS, 0, ROWS), status
        assert all(row["output"] == "yes" for row in read_rows(output))


def test_a_few_rows_that_are_all_refused_are_no_error_rows_either(serve: Callable[..., Server], tmp_path: Path) -> None:
    server: Any = Refusing(serve, 403, error("PERMISSION_DENIED", "Invalid access token."))
    source, output = write_prompts(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    with pytest.raises(bulk.EveryRowRefused, match="the last 3 were told"):
        run_job(server, source, output)
    server.refuses = False
    assert run_job(server, source, output).answered == 3


def test_rows_that_are_refused_for_themselves_are_error_rows(serve: Callable[..., Server], tmp_path: Path) -> None:
    class Filter(Refusing):
        def is_bad(self, request: Request) -> bool:
            return b"BAD" in request.body

    for status, code in ((400, "BAD_REQUEST"), (403, "PERMISSION_DENIED")):
        (folder := tmp_path / str(status)).mkdir()
        server: Any = Filter(serve, status, error(code, "the content filter refused it"), after=10**9)
        texts = ["row 0", *(f"BAD {n}" for n in range(45)), *(f"row {n}" for n in range(1, 20)), "BAD last"]
        output = folder / "out.jsonl"
        report = run_job(server, [{"text": text} for text in texts], output, concurrency=1)
        assert (report.answered, report.failed) == (20, 46), status
        assert [row["error"] is not None for row in read_rows(output)] == [text.startswith("BAD") for text in texts]
        again = run_job(server, [{"text": text} for text in texts], output, concurrency=1, retry_errors=True)
        assert again.failed == 46, "an endpoint that has answered before is not taken for one that refuses all"


def test_whoever_wants_error_rows_all_the_same_gets_them(serve: Callable[..., Server], tmp_path: Path) -> None:
    server: Any = Refusing(serve, 403, error("PERMISSION_DENIED", "Invalid access token."))
    source, output = write_prompts(tmp_path / "in.jsonl", 60), tmp_path / "out.jsonl"
    assert run_job(server, source, output, max_error_rate=1).failed == 60
    server.refuses = False
    assert run_job(server, source, output, retry_errors=True).answered == 60


def test_rows_in_memory_end_so_too(serve: Callable[..., Server]) -> None:
    server = Refusing(serve, 404, error("RESOURCE_DOES_NOT_EXIST", "no such endpoint"), after=30)
    with Client(server.host, "t") as client:
        rows = bulk.rows_sync(client.endpoint("m", task="chat"), (f"p{n}" for n in range(10_000)), concurrency=2)
        assert all(next(rows).ok for _ in range(30))
        with pytest.raises(bulk.EveryRowRefused):
            next(rows)
        rows = bulk.rows_sync(client.endpoint("m", task="chat"), ["a", "b"], max_error_rate=1)
        assert [row.error is not None for row in rows] == [True, True]


def test_a_host_that_cannot_be_reached_and_a_token_that_cannot_be_had_end_it_too(tmp_path: Path) -> None:
    def no_token() -> str:
        raise ConfigError("the vault is sealed")

    retry = Retry(attempts=2, backoff=0.001, max_backoff=0.002)
    source = write_prompts(tmp_path / "in.jsonl", ROWS)
    host = "http://127.0.0.1:9"  # nobody listens there
    for name, token, said in (("a", "t", "every row; the last"), ("b", no_token, "the vault is sealed")):
        with Client(host, token) as client, pytest.raises(bulk.EveryRowRefused, match=said):
            bulk.run_sync(
                source,
                tmp_path / f"{name}.jsonl",
                endpoint=client.endpoint("m", task="chat"),
                prompt="{text}",
                retry=retry,
                concurrency=4,
            )


def test_an_endpoint_is_looked_up_although_the_verb_is_told(serve: Callable[..., Server], tmp_path: Path) -> None:
    missing = serve(
        lambda peer: [peer.answer(error("RESOURCE_DOES_NOT_EXIST", "none"), 404) for _ in iter(peer.request, None)]
    )
    source = write_prompts(tmp_path / "in.jsonl", 3)
    with Client(missing.host, "t") as client, pytest.raises(Exception, match="HTTP 404"):
        bulk.run_sync(source, tmp_path / "out.jsonl", endpoint="m", client=client, prompt="{text}", verb="chat")
    assert all(request.line.startswith("GET") for request in missing.requests)
    with Client(missing.host, "t") as client:
        app = client.driver_app(3000, "cluster")
        with pytest.raises(TypeError, match="use the verb complete"):
            bulk.run_sync(source, tmp_path / "out.jsonl", endpoint=app, prompt="{text}", verb="chat")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
