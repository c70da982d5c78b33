from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
import trio

from dbllm.local import LocalError, Workspace
from dbllm.local.http.server import listen
from dbllm.local.workspace import check_bind_address, url


def test_it_starts_answers_and_stops(model: Path, tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    with Workspace(model=model, state=tmp_path, drivers=[7777]) as workspace:
        assert workspace.env == {
            "DATABRICKS_HOST": workspace.host,
            "DATABRICKS_TOKEN": workspace.token,
            "DATABRICKS_CLUSTER_ID": workspace.cluster_id,
        }
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", workspace.host)
        assert workspace.token not in repr(workspace)
        headers = {"authorization": f"Bearer {workspace.token}"}
        apps = httpx.get(f"{workspace.host}/api/local/driver-apps", headers=headers, trust_env=False).json()
        assert apps == {"cluster_id": workspace.cluster_id, "ports": [7777]}
        host, token = workspace.host, workspace.token
    with pytest.raises(httpx.ConnectError):
        httpx.get(host, trust_env=False)
    with pytest.raises(LocalError, match="not running"):
        _ = workspace.host
    assert set(threading.enumerate()) <= threads
    with Workspace(model=model, state=tmp_path) as again:
        assert again.token == token


def test_it_starts_and_stops_where_an_event_loop_runs_as_in_a_notebook(model: Path) -> None:
    async def start() -> None:
        with Workspace(model=model, token="t") as workspace:
            async with httpx.AsyncClient(base_url=workspace.host, trust_env=False) as http:
                assert (await http.get("/api/2.0/serving-endpoints")).status_code == 401

    asyncio.run(start())
    trio.run(start)


def test_it_stops_soon_with_a_stream_open(model: Path) -> None:
    body = {"prompt": "Once upon a time", "use_raw_prompt": True, "max_tokens": 3000, "stream": True}
    with Workspace(model=model, token="t") as workspace:
        path = f"{workspace.host}/serving-endpoints/smollm2-completions/invocations"
        headers = {"authorization": "Bearer t"}
        with httpx.stream("POST", path, json=body, headers=headers, trust_env=False) as answer:
            lines = answer.iter_lines()
            next(lines)
            start = time.monotonic()
            workspace.__exit__(None, None, None)
            assert time.monotonic() - start < 15
            rest = "".join(lines)
    assert "TEMPORARILY_UNAVAILABLE" in rest
    assert '"finish_reason": "length"' not in rest


def test_an_answer_that_is_nearly_there_is_finished_before_it_stops(model: Path) -> None:
    body = {"prompt": "Once upon a time", "use_raw_prompt": True, "max_tokens": 40, "stream": True}
    with Workspace(model=model, token="t", drain=20) as workspace:
        path = f"{workspace.host}/serving-endpoints/smollm2-completions/invocations"
        with httpx.stream("POST", path, json=body, headers={"authorization": "Bearer t"}, trust_env=False) as answer:
            lines = answer.iter_lines()
            next(lines)
            stopping = threading.Thread(target=workspace.__exit__, args=(None, None, None))
            stopping.start()
            rest = "".join(lines)
        stopping.join()
    assert "TEMPORARILY_UNAVAILABLE" not in rest
    assert rest.endswith("data: [DONE]")


def test_another_model_file_is_what_answers(model: Path, other_model: Path) -> None:
    answers = []
    for file in (model, other_model):
        with Workspace(model=file) as workspace:
            body = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 12}
            headers = {"authorization": f"Bearer {workspace.token}"}
            path = f"{workspace.host}/serving-endpoints/smollm2-chat/invocations"
            answers.append(httpx.post(path, json=body, headers=headers, trust_env=False, timeout=30).json())
    one, other = answers
    assert one["choices"][0]["message"]["content"] != other["choices"][0]["message"]["content"]
    assert (one["model"], other["model"]) == ("SmolLM2-135M-Instruct.Q4_1", "other-model")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::"])  # noqa: S104
def test_an_address_others_can_reach_needs_a_token_of_ones_own(host: str) -> None:
    with pytest.raises(LocalError, match="loopback only"):
        Workspace(host=host)
    Workspace(host=host, token="t")


@pytest.mark.parametrize("host", ["example.com", ""])
def test_a_name_is_no_address(host: str) -> None:
    with pytest.raises(LocalError, match="takes an IP address"):
        Workspace(host=host, token="t")


def test_the_url_of_all_addresses_is_one_that_can_be_reached() -> None:
    assert [url(("0.0.0.0", 80)), url(("::", 80))] == ["http://127.0.0.1:80", "http://[::1]:80"]  # noqa: S104


def test_the_spellings_of_loopback_are_taken() -> None:
    assert [check_bind_address(host, None) for host in ("localhost", "127.0.0.1", "127.0.0.2", "::1")] == [
        "127.0.0.1",
        "127.0.0.1",
        "127.0.0.2",
        "::1",
    ]
    assert url(("::1", 80)) == "http://[::1]:80"


@pytest.mark.parametrize("token", ["", "two words", "tökén", "line\nbreak"])
def test_a_token_that_cannot_travel_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(LocalError, match="token must be printable") as caught:
        Workspace(token=token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("port", [80, 2999, 8001])
def test_a_driver_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(LocalError, match="3000 to 8000"):
        Workspace(drivers=[port])


def test_a_taken_port_and_a_missing_model_leave_nothing_behind(tmp_path: Path, model: Path) -> None:
    with pytest.raises(LocalError, match=r"no model file.*nowhere\.gguf"):
        Workspace(model=tmp_path / "nowhere.gguf", state=tmp_path).__enter__()
    with Workspace(model=model, state=tmp_path) as workspace:
        port = int(workspace.host.rsplit(":", 1)[1])
        with pytest.raises(LocalError, match=rf"Port {port} .*already in use.*--port"):
            Workspace(model=model, port=port).__enter__()
        with pytest.raises(LocalError, match="running already"):
            workspace.__enter__()


def test_connections_do_not_wait_for_acknowledgements() -> None:
    with listen("127.0.0.1", 0, hint="") as sock:
        assert sock.proto == socket.IPPROTO_TCP, "asyncio sets TCP_NODELAY only where the protocol is named"
