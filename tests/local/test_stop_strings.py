from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbllm.local.invocation.stop_strings import StopCutter


def cut(pieces: list[str], stops: list[str]) -> str:
    cutter = StopCutter(stops)
    return "".join([*map(cutter.feed, pieces), cutter.rest()])


@pytest.mark.parametrize(
    ("pieces", "stops", "left"),
    [
        (["How are you?"], [], "How are you?"),
        (["Good. And you?"], ["."], "Good"),
        (["Go", "od", ". And"], ["."], "Good"),
        (["one ST", "OP two"], ["STOP"], "one "),
        (["one S", "T", "O", "x"], ["STOP"], "one STOx"),
        (["one STO"], ["STOP"], "one STO"),
        (["a-b+c"], ["+", "-"], "a"),
        (["xaab"], ["aab", "ab"], "x"),
        (["aaab"], ["aab"], "a"),
        ([".", "rest"], ["."], ""),
    ],
)
def test_the_text_ends_where_the_first_stop_string_begins(pieces: list[str], stops: list[str], left: str) -> None:
    assert cut(pieces, stops) == left


def test_text_that_cannot_become_a_stop_string_is_shown_at_once() -> None:
    cutter = StopCutter(["STOP"])
    assert cutter.feed("hello S") == "hello "
    assert cutter.feed("unday") == "Sunday"
    assert not cutter.stopped


@given(
    pieces=st.lists(st.text(alphabet="abc", max_size=4), max_size=8),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
)
def test_it_does_not_matter_in_which_pieces_the_text_comes(pieces: list[str], stops: list[str]) -> None:
    left = cut(pieces, stops)
    assert left == cut(["".join(pieces)], stops)
    assert "".join(pieces).startswith(left)
    assert not any(stop in left for stop in stops)
