"""The fault server: what each fault looks like to a client, that a seed decides, and that executions are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import trustme

from dbllm import APIError, AsyncClient, Client, Retry
from dbllm.testing import ALL_FAULTS, FAULT_KINDS, SAFE_FAULTS, FaultName, FaultServer, fault_server
from dbllm.testing.fault_plans import check_mix, plan_request
from dbllm.testing.model_answers import vector_of

ONCE = Retry(attempts=1)
STATUS = {"429": 429, "429_hint": 429, "503": 503, "500": 500, "502": 502, "504": 504, "early_413": 413}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server(pause=0.02, stall=0.05, run=0.06) as running:
        yield running


def outcome(client: Any, text: str, *, stream: bool) -> Any:
    try:
        if not stream:
            return client.endpoint("m").chat(text).text
        with client.endpoint("m").stream_chat(text) as opened:
            return opened.final().text
    except APIError as error:
        return error


def test_each_fault_does_to_a_whole_answer_and_to_a_stream_what_its_effect_says(server: FaultServer) -> None:
    wrong = []
    for name, kind in FAULT_KINDS.items():
        server.clear()
        server.change(mix={name: 1.0})
        for stream in (False, True):
            with Client(server.host, "token", retry=ONCE, timeout=10) as client:
                if name == "reset_kept":  # it needs a connection that was kept
                    client.endpoint("m").chat("first")
                found = outcome(client, f"text of {name}, {stream}", stream=stream)
            cut_after_the_end = name == "wrong_length" and stream  # [DONE] has come before the connection ends
            if kind.effect == "harmless" or cut_after_the_end:
                fine = found == f"text of {name}, {stream}"
            else:
                fine = isinstance(found, APIError) and found.status in (None, 200, STATUS.get(name))
                fine = fine and (name not in STATUS or found.status == STATUS[name])
            if not fine:
                wrong.append((name, stream, found))
            ran = [ran for fault, ran in server.history(f"text of {name}, {stream}") if fault == name]
            if ran != [kind.runs]:
                wrong.append((name, stream, f"ran: {ran}"))
        if flaws := server.report().flaws:
            wrong.append((name, flaws))
    assert not wrong


def test_the_same_seed_gives_each_request_the_same_faults() -> None:
    def plans(seed: int) -> list[object]:
        return [plan_request(seed, f"nonce {n}", attempt, ALL_FAULTS) for n in range(200) for attempt in (1, 2, 3)]

    assert plans(1) == plans(1)
    assert plans(1) != plans(2)
    hit = sum(plan_request(5, str(n), 1, SAFE_FAULTS).fault is not None for n in range(20_000))
    assert abs(hit / 20_000 - 0.3) < 0.015


def test_the_order_of_arrival_changes_no_fault(server: FaultServer) -> None:
    server.change(mix={"429": 0.3, "500": 0.3}, seed=11)
    found = []
    for texts in (range(40), reversed(range(40))):
        server.clear()
        with Client(server.host, "token", retry=ONCE) as client:
            for text in texts:
                outcome(client, str(text), stream=False)
        found.append([server.history(str(text)) for text in range(40)])
    assert found[0] == found[1]
    assert {fault for history in found[0] for fault, _ in history} == {"429", "500", "none"}


def test_the_table_of_kinds_has_every_name_and_the_mixes_are_three_tenths() -> None:
    assert FAULT_KINDS.keys() == set(get_args(FaultName))
    for mix in (SAFE_FAULTS, ALL_FAULTS):
        check_mix(mix)
        assert sum(mix.values()) == pytest.approx(0.3)
    assert {FAULT_KINDS[name].effect for name in SAFE_FAULTS} == {"harmless", "refused", "may have run"}


def test_a_mix_or_a_number_that_cannot_be_is_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"mix": {"418": 0.1}},
        {"mix": {"429": 1.5}},
        {"mix": {"429": 0.6, "500": 0.6}},
        {"mix": {"429": True}},
        {"pause": -1},
    ]
    for settings in wrong:
        with pytest.raises(ValueError, match=r"there is no fault|from 0 to|1 at most"):
            fault_server(**settings)


def test_what_ran_and_was_sent_again_is_told_with_its_fault(server: FaultServer) -> None:
    server.change(mix={"500": 1.0}, seed=0)
    server.clear()
    with Client(server.host, "token", retry=Retry(attempts=3, backoff=0)) as client:
        assert isinstance(outcome(client, "again and again", stream=False), APIError)
    report = server.report()
    assert (report.requests, report.executions, report.nonces, report.most_executions) == (3, 3, 1, 3)
    assert (report.faults, report.ran_again) == ({"500": 3}, {"500": 2})


def test_it_answers_what_clients_ask_a_workspace(server: FaultServer) -> None:
    server.change(mix={})
    with Client(server.host, client_id="principal", client_secret="secret") as client:
        endpoint = client.endpoint("m")
        assert endpoint.embed(["a", "b"]).vectors == [[vector_of("a")], [vector_of("b")]]
        assert endpoint.complete("a prompt") == "a prompt"
        assert endpoint.respond("a text").text == "a text"
        assert client.endpoint("p", task="llm/v1/completions").complete("hello") == "hello"
        assert endpoint.predict(dataframe_records=[{"prompt": "row"}]).predictions == ["row"]
        assert client.endpoints.get("m").name == "m"
        assert [one.name for one in client.endpoints.list()] == ["one"]


def test_it_stands_before_another_server_and_that_one_never_sees_what_is_refused() -> None:
    with (
        fault_server() as behind,
        fault_server(behind.host, mix={"429": 0.3, "reset_in_body": 0.3}) as server,
        Client(server.host, "token", retry=ONCE) as client,
    ):
        found = {text: outcome(client, text, stream=text.endswith("0")) for text in map(str, range(40))}
        good = {text: value for text, value in found.items() if not isinstance(value, APIError)}
        assert good == {text: text for text in good}
        assert 5 < len(good) < 30
        assert behind.report().executions == server.report().executions < 40
    with fault_server("http://127.0.0.1:9") as server, Client(server.host, "token", retry=ONCE) as client:
        error = outcome(client, "x", stream=False)
        assert (error.status, "no upstream" in str(error)) == (502, True)


def test_it_runs_in_a_process_of_its_own_and_in_an_event_loop() -> None:
    async def main() -> None:
        async with fault_server(process=True) as server, AsyncClient(server.host, "token") as client:
            replies = await asyncio.gather(*(client.endpoint("m").chat(str(n)) for n in range(50)))
            assert [reply.text for reply in replies] == [str(n) for n in range(50)]
            server.change(mix={"early_413": 1.0})
            with pytest.raises(APIError) as caught:
                await client.endpoint("m").chat("x" * 3_000_000)
            assert caught.value.status == 413
            assert server.report().executions == 50

    asyncio.run(main())


def test_it_speaks_tls_with_a_certificate_of_the_users(tmp_path: Path) -> None:
    authority, pem = trustme.CA(), tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with (
        fault_server(mix={"reset_in_body": 0.5}, certificate=str(pem)) as server,
        Client(server.host, "token", retry=ONCE, verify=str(tmp_path / "ca.pem")) as client,
    ):
        found = [outcome(client, str(text), stream=False) for text in range(20)]
        assert {type(one).__name__ for one in found} == {"str", "APIConnectionError"}
        report = server.report()
    assert (report.executions, report.flaws) == (20, ())
