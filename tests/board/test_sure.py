"""Which wins are sure, and how times were taken: a ratio above 1 may be noise, and plain calls are no graphs."""

from __future__ import annotations

from typing import Any

import pytest
from board_cases import HERE, dataset, measured

from fib_plugin.board.scores import Board, Line, make_board
from fib_plugin.dataset import Measurement


def board(*lines: Measurement, **options: Any) -> Board:
    return make_board(dataset(), lines, HERE, definition="copy_a", **options)


def line(of: Board, name: str) -> Line:
    (found,) = (line for line in of.definitions[0].solutions if line.solution == name)
    return found


def one(uuid: str, ratio: float, **changes: Any) -> Measurement:
    return measured(dataset(), "ann_copy_a", uuid, ratio, **changes)


def test_a_win_is_sure_where_the_whole_interval_is_above_one() -> None:
    made = board(one("a1", 1.5, ratio_low=1.01), one("a2", 1.5, ratio_low=1.0), one("a3", 1.5, ratio_low=None))
    score = line(made, "ann_copy_a").score
    assert (score.fast_p or {})[1.0] == 1.0
    assert (score.sure, score.tasks) == (1, 3)
    (ann,) = (line for line in made.authors if line.author == "ann")
    assert ann.to_dict()["sure"] == 1


@pytest.mark.parametrize("changes", [{"doubt": "throttled"}, {"status": "INCORRECT_NUMERICAL"}, {"baseline": None}])
def test_what_is_in_doubt_wrong_or_uncompared_is_no_sure_win(changes: dict[str, Any]) -> None:
    assert line(board(one("a1", 1.5, ratio_low=1.4, **changes)), "ann_copy_a").score.sure == 0


def test_how_times_were_taken_is_told() -> None:
    same = board(one("a1", 1.5, timing="graph", cache="cold"), one("a2", 1.5, timing="graph", cache="cold"))
    assert line(same, "ann_copy_a").timed == ("graph, cold",)
    both = board(one("a1", 1.5, timing="graph", cache="cold"), one("a2", 1.5, timing="plain", cache="warm"))
    assert line(both, "ann_copy_a").to_dict()["timed"] == ["graph, cold", "plain, warm"]
    assert "timed" not in line(board(one("a1", 1.5)), "ann_copy_a").to_dict()


@pytest.mark.parametrize("timing", ["graph", "plain"])
def test_the_last_verdict_counts_however_it_was_timed(timing: str) -> None:
    first, second = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"
    failed = {"status": "RUNTIME_ERROR", "ratio_low": None, "timing": ""}
    mended = line(
        board(
            one("a1", 0.0, timestamp=first, **failed), one("a1", 1.5, timestamp=second, timing="graph"), timing=timing
        ),
        "ann_copy_a",
    )
    assert (mended.score.correct, mended.score.evaluated, mended.failures) == (1, 1, ())
    assert mended.score.speedup == (pytest.approx(1.5) if timing == "graph" else None)
    broken = line(
        board(
            one("a1", 1.5, timestamp=first, timing="graph"), one("a1", 0.0, timestamp=second, **failed), timing=timing
        ),
        "ann_copy_a",
    )
    assert (broken.score.correct, broken.score.speedup, broken.score.sure, broken.timed) == (0, None, 0, ())


def test_the_last_ratio_of_the_wanted_timing_stays() -> None:
    lines = [
        one("a1", 1.5, timestamp="2026-01-01T00:00:00+00:00", timing="graph"),
        one("a1", 3.0, timestamp="2026-01-02T00:00:00+00:00", timing="plain"),
    ]
    for timing, ratio in (("graph", 1.5), ("plain", 3.0)):
        found = line(board(*lines, timing=timing), "ann_copy_a")
        assert found.score.speedup == pytest.approx(ratio)
        assert found.timed == (timing,)


def test_ratios_of_the_other_way_are_left_out_and_verdicts_stay() -> None:
    lines = [
        one("a1", 1.5, timing="graph"),
        one("a2", 3.0, timing="plain"),
        one("a3", None, status="RUNTIME_ERROR", timing=""),  # type: ignore[arg-type]
    ]
    score = line(board(*lines, timing="graph"), "ann_copy_a").score
    assert (score.evaluated, score.correct) == (3, 2)
    assert score.speedup == pytest.approx(1.5)
    assert line(board(*lines, timing="plain"), "ann_copy_a").score.speedup == pytest.approx(3.0)
