"""When a figure of the benchmark counts as worse."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

CHAT, STREAM = "chat, 1 at a time", "stream of 500 chunks"


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark is a folder of programs, which find each other beside themselves."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import pairs

    return pairs


def test_worse_is_what_is_over_five_percent_and_over_the_spread_of_the_control(pairs: ModuleType) -> None:
    quiet, restless = [1.0, 0.99, 1.01, 1.02, 0.98, 1.0, 1.3], [0.8, 1.1, 0.9, 1.12, 0.9, 1.15, 1.2]
    for new, control, is_worse in (
        (1.04, quiet, False),
        (1.06, quiet, True),  # the one outlier of the control excuses nothing
        (1.06, restless, False),
        (1.14, restless, False),
        (1.16, restless, True),
        (0.5, quiet, False),
    ):
        rounds = [{(CHAT, "old"): 2.0, (CHAT, "new"): 2.0 * new, (CHAT, "control"): 2.0 * other} for other in control]
        ((scene, _, _, ratio, _, bad),) = pairs.judged(rounds)
        assert (scene, round(ratio, 6), bad) == (CHAT, new, is_worse), (new, control)


def test_few_rounds_leave_no_ratio_of_the_control_out(pairs: ModuleType) -> None:
    rounds = [{(CHAT, "old"): 1.0, (CHAT, "new"): 1.1, (CHAT, "control"): other} for other in (0.9, 1.0, 1.0, 1.2)]
    assert [spread for *_, spread, _ in pairs.judged(rounds)] == [(0.9, 1.2)]
    assert pairs.table(rounds)[1] == []
    assert len(pairs.table(rounds[:1])[1]) == 1


def test_one_disturbed_round_decides_nothing(pairs: ModuleType) -> None:
    rounds = [{(CHAT, "old"): 1.0, (CHAT, "new"): new, (CHAT, "control"): 1.0} for new in (1, 1, 9, 1, 1, 9, 1)]
    assert pairs.table(rounds)[1] == []


def test_a_figure_that_one_tree_does_not_have_is_left_out(pairs: ModuleType) -> None:
    rounds = [{(CHAT, "old"): 1.0, (CHAT, "new"): 2.0, (CHAT, "control"): 1.0, (STREAM, "new"): 1.0}] * 7
    text, worse = pairs.table(rounds)
    assert STREAM not in text
    assert worse == [f"{CHAT}: 2.000"]


def test_what_is_no_tree_of_dbllm_is_refused(pairs: ModuleType, tmp_path: Path) -> None:
    for other in ("", str(tmp_path), str(tmp_path / "missing")):
        with pytest.raises(SystemExit, match="takes the folder of another working tree"):
            pairs.main(other)
