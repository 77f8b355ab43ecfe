"""Scores are what a reader would work out by hand from the same measurements."""

from __future__ import annotations

import math

import pytest
from board_cases import (
    ELSEWHERE,
    HERE,
    dataset,
    engine_everywhere,
    evaluated,
    measured,
    solution,
)
from hypothesis import given
from hypothesis import strategies as st

from fib_plugin.board.scores import P_LEVELS, Board, Line, geometric_mean, make_board
from fib_plugin.dataset import Measurement, TraceSet
from fib_plugin.schema import Environment


def author(board: Board, name: str) -> Line:
    return next(line for line in board.authors if line.author == name)


def in_definition(board: Board, definition: str, name: str) -> Line:
    score = next(score for score in board.definitions if score.definition == definition)
    return next(line for line in (*score.authors, *score.solutions) if name in (line.author, line.solution))


def fast(line: Line, p: float) -> float:
    assert line.score.fast_p is not None
    return line.score.fast_p[p]


def test_an_empty_dataset_has_an_empty_board() -> None:
    board = make_board(TraceSet(), [])
    assert (board.authors, board.definitions, board.environment) == ([], [], None)


def test_a_dataset_without_measurements_scores_nothing() -> None:
    board = make_board(dataset(), [], HERE)
    ann = author(board, "ann")
    assert (ann.score.evaluated, ann.score.correct, ann.score.tasks) == (0, 0, 0)
    assert (ann.score.speedup, ann.score.reference_speedup, ann.score.fast_p) == (None, None, None)


def test_speedup_is_the_geometric_mean_over_the_displaced_op() -> None:
    traces = dataset()
    lines = [
        *engine_everywhere(traces),
        measured(traces, "ann_copy_a", "a1", 2.0),
        measured(traces, "ann_copy_a", "a2", 0.5),
    ]
    board = make_board(traces, lines, HERE)
    assert author(board, "ann").score.speedup == pytest.approx(1.0)
    assert (author(board, "ann").score.evaluated, author(board, "ann").score.correct) == (2, 2)


def test_fast_p_counts_tasks_not_attempted_as_zero() -> None:
    traces = dataset()
    lines = [
        *engine_everywhere(traces),
        measured(traces, "ann_copy_a", "a1", 1.6),
        measured(traces, "ann_copy_a", "a2", 0.9),
    ]
    board = make_board(traces, lines, HERE)
    shares = {p: fast(author(board, "ann"), p) for p in P_LEVELS}
    assert shares == {0.5: 0.5, 0.8: 0.5, 1.0: 0.25, 1.2: 0.25, 1.5: 0.25, 2.0: 0.0}
    assert fast(in_definition(board, "copy_a", "ann"), 0.8) == pytest.approx(2 / 3)
    assert fast(in_definition(board, "copy_b", "ann"), 0.8) == 0.0


def test_exactly_p_is_enough() -> None:
    traces = dataset()
    board = make_board(traces, [*engine_everywhere(traces), measured(traces, "ann_copy_b", "b1", 1.2)], HERE)
    assert fast(in_definition(board, "copy_b", "ann"), 1.2) == 1.0


def test_of_several_solutions_the_best_correct_one_counts() -> None:
    traces = dataset()
    traces.add_solution(solution("ann_second", "copy_b", "ann", "def run(x): return +x"))
    traces.add_solution(solution("ann_wrong", "copy_b", "ann", "def run(x): return -x"))
    lines = [
        *engine_everywhere(traces),
        measured(traces, "ann_copy_b", "b1", 1.1),
        measured(traces, "ann_second", "b1", 1.5),
        measured(traces, "ann_wrong", "b1", 9.0, status="INCORRECT_NUMERICAL"),
    ]
    ann = in_definition(make_board(traces, lines, HERE), "copy_b", "ann")
    assert ann.score.speedup == pytest.approx(1.5)
    assert (ann.score.evaluated, ann.score.correct, ann.solutions) == (3, 2, 3)
    assert (fast(ann, 1.5), fast(ann, 2.0)) == (1.0, 0.0)


def test_a_failed_solution_scores_zero_although_it_was_fast() -> None:
    traces = dataset()
    lines = [*engine_everywhere(traces), measured(traces, "ann_copy_b", "b1", 5.0, status="RUNTIME_ERROR")]
    ann = in_definition(make_board(traces, lines, HERE), "copy_b", "ann")
    assert (ann.score.evaluated, ann.score.correct, ann.score.speedup, fast(ann, 0.5)) == (1, 0, None, 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"baseline": "", "baseline_ms": None, "ratio": 0.0},
        {"baseline": None, "baseline_hash": None, "baseline_ms": None, "ratio": None},
        {"ratio": math.nan},
        {"ratio": math.inf},
        {"ratio": 0.0},
        {"ratio": -1.0},
        {"baseline_ms": math.nan},
    ],
)
def test_a_speed_that_makes_no_sense_is_no_speed_but_the_result_is_correct(changes: dict[str, float]) -> None:
    traces = dataset()
    ann = in_definition(
        make_board(traces, [measured(traces, "ann_copy_b", "b1", 2.0, **changes)], HERE), "copy_b", "ann"
    )
    assert (ann.score.evaluated, ann.score.correct, ann.score.speedup) == (1, 1, None)
    assert ann.score.fast_p is None or set(ann.score.fast_p.values()) == {0.0}


def test_without_any_displaced_op_there_is_no_fast_p() -> None:
    traces = dataset()
    line = measured(traces, "ann_copy_b", "b1", None, baseline="", baseline_ms=None)
    assert in_definition(make_board(traces, [line], HERE), "copy_b", "ann").score.fast_p is None


def test_the_latest_measurement_wins_whatever_the_order() -> None:
    traces = dataset()
    old = measured(traces, "ann_copy_b", "b1", 3.0, timestamp="2026-01-01T00:00:00+00:00")
    new = measured(traces, "ann_copy_b", "b1", 0.7, timestamp="2026-01-01T02:30:00+01:00")
    for lines in ([old, new], [new, old]):
        assert author(make_board(traces, lines, HERE), "ann").score.speedup == pytest.approx(0.7)


def test_a_later_failure_takes_an_earlier_win_away() -> None:
    traces = dataset()
    lines = [
        measured(traces, "ann_copy_b", "b1", 3.0, timestamp="2026-01-01T00:00:00+00:00"),
        measured(traces, "ann_copy_b", "b1", None, status="TIMEOUT", timestamp="2026-01-02T00:00:00+00:00"),
    ]
    ann = in_definition(make_board(traces, lines, HERE), "copy_b", "ann")
    assert (ann.score.evaluated, ann.score.correct, ann.score.speedup, fast(ann, 0.5)) == (1, 0, None, 0.0)


def test_a_timestamp_that_cannot_be_read_counts_as_the_oldest() -> None:
    traces = dataset()
    lines = [
        measured(traces, "ann_copy_b", "b1", 3.0),
        measured(traces, "ann_copy_b", "b1", 0.5, timestamp="yesterday"),
    ]
    assert author(make_board(traces, lines, HERE), "ann").score.speedup == pytest.approx(3.0)


def test_measurements_of_earlier_source_do_not_count_and_are_noted() -> None:
    traces = dataset()
    board = make_board(traces, [measured(traces, "ann_copy_b", "b1", 3.0, solution_hash="old")], HERE)
    assert author(board, "ann").score.evaluated == 0
    assert board.notes == ["1 measurements of earlier versions of solutions"]


def test_a_trace_of_earlier_source_does_not_count_either() -> None:
    traces = dataset()
    traces.add_traces([evaluated("ann_copy_b", "copy_b", "b1", 4.0)])
    board = make_board(traces, [measured(traces, "ann_copy_b", "b1", 3.0, solution_hash="old")], HERE)
    assert author(board, "ann").score.evaluated == 0


def test_measurements_of_removed_solutions_are_noted() -> None:
    traces = dataset()
    line = measured(traces, "ann_copy_b", "b1", 3.0, solution="gone")
    board = make_board(traces, [line], HERE)
    assert board.notes == ["1 measurements of solutions that are not in the dataset"]


def test_the_reference_speedup_comes_from_traces() -> None:
    traces = dataset()
    traces.add_traces([evaluated("ann_copy_a", "copy_a", "a1", 8.0), evaluated("ann_copy_a", "copy_a", "a2", 2.0)])
    lines = [measured(traces, "ann_copy_a", "a1", 1.5), measured(traces, "ann_copy_a", "a2", 1.5)]
    ann = author(make_board(traces, lines, HERE), "ann")
    assert ann.score.reference_speedup == pytest.approx(4.0)
    assert ann.score.speedup == pytest.approx(1.5)
    assert ann.score.evaluated == 2


def test_a_dataset_with_traces_only_shows_correctness_and_reference_speed() -> None:
    traces = dataset()
    traces.add_traces([evaluated("ann_copy_a", "copy_a", "a1", 8.0), evaluated("ann_copy_a", "copy_a", "a2", None)])
    board = make_board(traces, [])
    ann = author(board, "ann")
    assert board.environment == HERE
    assert (ann.score.evaluated, ann.score.correct) == (2, 1)
    assert (ann.score.reference_speedup, ann.score.speedup, ann.score.fast_p) == (pytest.approx(8.0), None, None)


def test_the_latest_trace_wins() -> None:
    traces = dataset()
    traces.add_traces(
        [
            evaluated("ann_copy_a", "copy_a", "a1", None, timestamp="2026-02-01T00:00:00Z"),
            evaluated("ann_copy_a", "copy_a", "a1", 8.0, timestamp="2026-01-01T00:00:00Z"),
        ]
    )
    ann = author(make_board(traces, []), "ann")
    assert (ann.score.evaluated, ann.score.correct, ann.score.reference_speedup) == (1, 0, None)


def test_numbers_of_another_machine_are_left_out_and_noted() -> None:
    traces = dataset()
    lines = [
        measured(traces, "ann_copy_b", "b1", 2.0),
        measured(traces, "bob_copy_b", "b1", 9.0, hardware=ELSEWHERE.hardware, timestamp="2026-05-01T00:00:00Z"),
    ]
    board = make_board(traces, lines, HERE)
    assert (author(board, "ann").score.evaluated, author(board, "bob").score.evaluated) == (1, 0)
    assert board.notes == ["1 measurements from other hardware or library versions"]


def test_where_nothing_was_measured_the_newest_environment_is_shown() -> None:
    traces = dataset()
    lines = [
        measured(traces, "ann_copy_b", "b1", 2.0),
        measured(traces, "bob_copy_b", "b1", 9.0, hardware=ELSEWHERE.hardware, timestamp="2026-05-01T00:00:00Z"),
    ]
    board = make_board(traces, lines, Environment(hardware="a laptop", libs={}))
    assert board.environment == ELSEWHERE
    assert (author(board, "ann").score.evaluated, author(board, "bob").score.evaluated) == (0, 1)


def test_hardware_can_be_chosen() -> None:
    traces = dataset()
    lines = [
        measured(traces, "ann_copy_b", "b1", 2.0),
        measured(traces, "bob_copy_b", "b1", 9.0, hardware=ELSEWHERE.hardware),
    ]
    board = make_board(traces, lines, HERE, hardware="*B")
    assert board.environment == ELSEWHERE
    assert author(board, "bob").score.evaluated == 1


def test_the_baseline_stands_first_and_the_others_by_fast_p() -> None:
    traces = dataset()
    lines = [
        *engine_everywhere(traces),
        measured(traces, "ann_copy_a", "a1", 9.0),
        measured(traces, "bob_copy_a", "a1", 1.1),
        measured(traces, "bob_copy_a", "a2", 1.1),
    ]
    assert [line.author for line in make_board(traces, lines, HERE).authors] == ["engine", "bob", "ann"]
    assert [line.author for line in make_board(traces, lines, HERE, p=2.0).authors] == ["engine", "ann", "bob"]
    assert [line.author for line in make_board(traces, lines, HERE, p=3.3).authors] == ["engine", "ann", "bob"]


def test_a_definition_glob_limits_tasks_and_lines() -> None:
    traces = dataset()
    lines = [*engine_everywhere(traces), measured(traces, "ann_copy_b", "b1", 1.5)]
    board = make_board(traces, lines, HERE, definition="*_b")
    assert [score.definition for score in board.definitions] == ["copy_b"]
    assert fast(author(board, "ann"), 1.5) == 1.0


def test_one_author_is_shown_beside_the_baseline() -> None:
    traces = dataset()
    board = make_board(traces, engine_everywhere(traces), HERE, author="bob")
    assert [line.author for line in board.authors] == ["engine", "bob"]


RATIO = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
STATUS = st.sampled_from(["PASSED", "INCORRECT_NUMERICAL", "TIMEOUT", "SOMETHING NEW"])


@given(
    st.lists(st.tuples(st.sampled_from(["ann", "bob", "engine"]), st.sampled_from(["a1", "a2", "?"]), RATIO, STATUS))
)
def test_no_measurement_breaks_the_board_and_fast_p_never_rises_with_p(
    rows: list[tuple[str, str, float | None, str]],
) -> None:
    traces = dataset()
    lines: list[Measurement] = [
        measured(traces, f"{who}_copy_a", uuid, 1.0, ratio=ratio, status=status) for who, uuid, ratio, status in rows
    ]
    for line in make_board(traces, lines, HERE).authors:
        if line.score.fast_p is not None:
            shares = [line.score.fast_p[p] for p in P_LEVELS]
            assert shares == sorted(shares, reverse=True)
            assert all(0.0 <= share <= 1.0 for share in shares)
        assert line.score.speedup is None or line.score.speedup > 0


def test_the_geometric_mean_of_nothing_is_nothing() -> None:
    assert geometric_mean([]) is None
    assert geometric_mean([4.0, 1.0]) == pytest.approx(2.0)
