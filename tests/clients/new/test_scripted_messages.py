"""Scripted models answer Anthropic's own client: no workspace and no model runs here."""

from __future__ import annotations

from typing import Any

import pytest

anthropic = pytest.importorskip("anthropic")

from dbllm.testing import Scripted
from dbllm.testing.plugin import scripted

__all__ = ["scripted"]

ASKED: Any = {"model": "claude", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}
WEATHER: Any = {"name": "weather", "input_schema": {"type": "object"}}


def test_messages_streams_tools_refusals_and_errors(scripted: Scripted) -> None:
    with anthropic.Anthropic(base_url=scripted.anthropic_base_url, auth_token=scripted.token, max_retries=0) as client:
        scripted.reply("one two", times=2)
        assert client.messages.create(**ASKED).content[0].text == "one two"
        with client.messages.stream(**ASKED) as stream:
            assert list(stream.text_stream) == ["one ", "two"]
            assert stream.get_final_message().stop_reason == "end_turn"
        scripted.reply("Let me see.", tool_calls={"weather": {"city": "Oslo"}}, times=2)
        whole = client.messages.create(**ASKED, tools=[WEATHER])
        with client.messages.stream(**ASKED, tools=[WEATHER]) as stream:
            streamed = stream.get_final_message()
        for reply in (whole, streamed):
            assert (reply.content[1].input, reply.stop_reason) == ({"city": "Oslo"}, "tool_use")
        assert whole.usage == streamed.usage
        scripted.reply(refusal="No.")
        assert client.messages.create(**ASKED).stop_reason == "refusal"
        scripted.error(429, "busy")
        with pytest.raises(anthropic.RateLimitError, match="busy"):
            client.messages.create(**ASKED)
        for fault in ("stream_cut", "error_frame", "bad_json"):
            scripted.reply("one two three", fault=fault)
            with pytest.raises(Exception), client.messages.stream(**ASKED) as stream:  # noqa: B017, PT011
                stream.get_final_message()
    scripted.assert_called(kind="messages", endpoint="claude", tools=["weather"])
