"""The tables of broken streams are what is found, and no kind of broken stream ends in silence."""

from __future__ import annotations

from testing import broken_streams


def test_no_broken_stream_is_silent_and_the_tables_say_so() -> None:
    found = broken_streams.measure()
    silent = [(row, verb, said) for row, cells in found.items() for verb, said in cells.items() if "Error`" not in said]
    assert silent == []
    for page, make in broken_streams.PAGES.items():
        assert broken_streams.inside(page.read_text("utf-8")) == make(found, broken_streams.peers()), page.name
