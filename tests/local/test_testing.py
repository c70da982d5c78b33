"""`dbllm.testing` as its users have it: a workspace of one's own, custom models, the own upstream, faults."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import pytest

import dbllm
from dbllm import (
    APIConnectionError,
    AsyncClient,
    BadRequestError,
    Client,
    RateLimitError,
    Retry,
    StreamInterruptedError,
    testing,
)
from dbllm.local import Workspace
from dbllm.testing import Fault, faults, workspace

ONCE = Retry(attempts=1)


def shout(prompt: str) -> str:
    return prompt.upper()


@pytest.fixture(scope="module")
def local() -> Iterator[Workspace]:
    before = {name: value for name, value in os.environ.items() if name.startswith("DATABRICKS_")}
    os.environ["DATABRICKS_CLIENT_ID"] = "not-of-this-workspace"
    with workspace(customs={"shout": shout}, upstreams={"openai": "local"}) as running:
        yield running
    assert os.environ.pop("DATABRICKS_CLIENT_ID") == "not-of-this-workspace"
    assert {name: value for name, value in os.environ.items() if name.startswith("DATABRICKS_")} == before


@pytest.mark.usefixtures("local")
def test_clients_find_it_by_themselves_and_a_function_is_a_model() -> None:
    with Client() as client:
        assert client.endpoint("shout").complete("hello") == "HELLO"
        assert client.endpoint("smollm2-chat").chat("hello", max_tokens=4).text


def test_an_external_model_reaches_the_own_upstream_with_a_secret(local: Workspace) -> None:
    config = {
        "name": "my-chat",
        "external_model": {
            "name": "gpt-4",
            "provider": "openai",
            "task": "llm/v1/chat",
            "openai_config": {"openai_api_key": "{{secrets/tests/key}}"},
        },
    }
    with Client() as client:
        client.secrets.create_scope("tests")
        client.secrets.put("tests", "key", local.upstream_key)
        client.endpoints.create("my-chat", {"served_entities": [config]})
        client.endpoints.wait_until_ready("my-chat")
        assert client.endpoint("my-chat").chat("hello", max_tokens=4).text
        with client.endpoint("my-chat").stream_chat("hello", max_tokens=4) as stream:
            assert len(list(stream)) > 1
        client.secrets.put("tests", "key", "another")
        with pytest.raises(dbllm.AuthenticationError, match="Incorrect API key"):
            client.endpoint("my-chat").chat("hello", retry=ONCE)


def test_faults_end_with_their_block(local: Workspace) -> None:
    with Client(retry=ONCE) as client:
        with faults(local, "shout", Fault(statuses={429: 1}, retry_after=3)):
            with pytest.raises(RateLimitError) as caught:
                client.endpoint("shout").complete("hello")
            assert caught.value.retry_after == 3
        assert client.endpoint("shout").complete("hello") == "HELLO"


def test_the_clients_retries_get_through_a_share_of_refusals(local: Workspace) -> None:
    with Client() as client, faults(local, "*", Fault(statuses={503: 0.5}, retry_after=0, seed=2)):
        assert [client.endpoint("shout").complete("a") for _ in range(5)] == ["A"] * 5


@pytest.mark.parametrize("fault", [Fault(cut=1), Fault(error_frame=1)])
def test_a_stream_that_breaks_is_an_error_and_not_a_short_answer(local: Workspace, fault: Fault) -> None:
    with (
        Client(retry=ONCE) as client,
        faults(local, "smollm2-chat", fault),
        pytest.raises(StreamInterruptedError),
        client.endpoint("smollm2-chat").stream_chat("Count to twenty.", max_tokens=40) as stream,
    ):
        list(stream)


def test_a_cut_answer_is_a_connection_error(local: Workspace) -> None:
    with Client(retry=ONCE) as client, faults(local, "shout", Fault(cut=1)), pytest.raises(APIConnectionError):
        client.endpoint("shout").predict(inputs={"prompt": ["hello"]})


def test_latency_runs_side_by_side(local: Workspace) -> None:
    async def ask() -> None:
        async with AsyncClient() as client:
            await asyncio.gather(*(client.endpoint("shout").predict(inputs={"prompt": ["a"]}) for _ in range(8)))

    with faults(local, "shout", Fault(latency=0.5)):
        began = time.monotonic()
        asyncio.run(ask())
        assert 0.5 <= time.monotonic() - began < 8 * 0.5


def test_a_fault_that_the_workspace_does_not_know_is_refused(local: Workspace) -> None:
    with Client() as client, pytest.raises(BadRequestError, match="there is no fault 'late'"):
        client.request("PUT", testing.FAULTS, json={"endpoint": "shout", "late": 1})
    with pytest.raises(ValueError, match="'cut' is a share"):
        Fault(cut=2)


def test_only_an_admin_sets_faults(local: Workspace) -> None:
    with Client() as client:
        client.request("POST", "/api/local/principals", json={"name": "reader@example.com", "service": False})
        token = client.request("POST", "/api/local/tokens", json={"principal": "reader@example.com"})["token_value"]
    with Client(local.host, token) as reader, pytest.raises(dbllm.PermissionDeniedError):
        reader.request("PUT", testing.FAULTS, json={"endpoint": "*", "latency": 1})
