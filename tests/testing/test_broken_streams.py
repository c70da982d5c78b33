"""The guide's table of broken streams is what is found, and no kind of broken stream ends in silence."""

from __future__ import annotations

from testing import broken_streams


def test_no_broken_stream_is_silent_and_the_table_in_the_readme_says_so() -> None:
    found = broken_streams.measure()
    silent = [(row, verb, said) for row, cells in found.items() for verb, said in cells.items() if "Error`" not in said]
    assert silent == []
    assert broken_streams.inside(broken_streams.GUIDE.read_text("utf-8")) == broken_streams.table(
        found, broken_streams.peers()
    )
