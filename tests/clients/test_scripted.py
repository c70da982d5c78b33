"""Scripted models answer clients of others: no workspace and no model runs here."""

from __future__ import annotations

import pytest

openai = pytest.importorskip("openai")
WorkspaceClient = pytest.importorskip("databricks.sdk").WorkspaceClient
serving = pytest.importorskip("databricks.sdk.service.serving")

from dbllm.testing import Scripted
from dbllm.testing.plugin import scripted

__all__ = ["scripted"]


def test_openais_client_reads_answers_streams_tools_and_responses(scripted: Scripted) -> None:
    with openai.OpenAI(base_url=scripted.openai_base_url, api_key=scripted.token, max_retries=0) as client:
        messages = [{"role": "user", "content": "hi"}]
        scripted.reply("whole", times=3)
        assert client.chat.completions.create(model="m", messages=messages).choices[0].message.content == "whole"
        pieces = client.chat.completions.create(model="m", messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == "whole"
        assert client.responses.create(model="m", input="hi").output_text == "whole"
        scripted.reply("in two", times=2)
        events = list(client.responses.create(model="m", input="hi", stream=True))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "in two"
        assert events[-1].response.output_text == "in two"
        with client.responses.stream(model="m", input="hi") as stream:
            assert stream.get_final_response().output_text == "in two"
        scripted.tool_call("weather", {"city": "Oslo"})
        calls = client.chat.completions.create(model="m", messages=messages).choices[0].message.tool_calls
        assert calls[0].function.arguments == '{"city": "Oslo"}'
        scripted.embed([1, 2])
        assert client.embeddings.create(model="m", input=["a"], encoding_format="float").data[0].embedding == [1, 2]


def test_databricks_sdk_calls_an_endpoint(scripted: Scripted) -> None:
    client = WorkspaceClient()
    assert client.serving_endpoints.get("m").state.ready.value == "READY"
    scripted.reply("for the sdk")
    message = serving.ChatMessage(role=serving.ChatMessageRole.USER, content="hi")
    assert client.serving_endpoints.query("m", messages=[message]).choices[0].message.content == "for the sdk"
