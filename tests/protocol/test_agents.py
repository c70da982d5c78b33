"""What an agent's events say."""

from __future__ import annotations

from dbllm._protocol.agents import AgentWire
from dbllm._protocol.sse import Event


def test_a_cursor_is_a_number_of_the_servers_and_whatever_else_stands_there_is_none() -> None:
    for makes_id in (True, False):
        wire = AgentWire("/x", makes_id)
        for own, cursor in (("7", 7), ("0", 0), ("", None), ("-1", None), ("\u0663", None), ("1" * 6000, None)):
            assert wire.cursor(Event(b"{}", "", own)) == cursor
    numbered = AgentWire("/x", False)
    for number, cursor in ((b"5", 5), (b"true", None), (b'"5"', None), (b"1" * 6000, None), (b"[" * 100_000, None)):
        assert numbered.cursor(Event(b'{"sequence_number": ' + number + b"}", "", "")) == cursor
