"""The board of a run that went wrong: every failure is there with its reason, and nothing breaks."""

from __future__ import annotations

import io

import pytest
from board_cases import HERE, dataset, engine_everywhere, evaluated, measured
from rich.console import Console

from fib_plugin.board.outcomes import reason
from fib_plugin.board.report import render
from fib_plugin.board.scores import Failure, Line, make_board
from fib_plugin.dataset import TraceSet
from fib_plugin.schema import Correctness, EvaluationStatus

WRONG = "output y: 50% of the elements match, 100% are required\n[0] 1 expected 2"


def line(traces: TraceSet, name: str) -> Line:
    board = make_board(traces, [], HERE)
    return next(one for score in board.definitions for one in score.solutions if one.solution == name)


def text(traces: TraceSet, width: int = 160) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(render(make_board(traces, engine_everywhere(traces), HERE)))
    return out.getvalue()


@pytest.fixture
def traces() -> TraceSet:
    found = dataset()
    wrong = {"status": EvaluationStatus.INCORRECT_NUMERICAL, "log": WRONG, "correctness": Correctness()}
    found.add_traces(
        [
            evaluated("ann_copy_a", "copy_a", "a1", None, **wrong),
            evaluated("ann_copy_a", "copy_a", "a2", None, **wrong),
            evaluated(
                "ann_copy_a", "copy_a", "a3", None, log="Traceback (most recent call last):\n  x\nValueError: no"
            ),
            evaluated("bob_copy_b", "copy_b", "b1", None, log=""),
        ]
    )
    return found


def test_failures_of_one_kind_are_counted_and_told_once(traces: TraceSet) -> None:
    assert line(traces, "ann_copy_a").failures == (
        Failure("INCORRECT_NUMERICAL", 2, WRONG.splitlines()[0]),
        Failure("RUNTIME_ERROR", 1, "ValueError: no"),
    )
    assert line(traces, "bob_copy_b").failures == (Failure("RUNTIME_ERROR", 1, ""),)
    assert line(traces, "engine_copy_a").failures == ()


def test_they_are_shown_with_their_reasons(traces: TraceSet) -> None:
    shown = text(traces)
    assert "failures" in shown
    assert WRONG.splitlines()[0] in shown
    assert "ValueError: no" in shown


def test_a_board_of_failures_only_is_shown(traces: TraceSet) -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(render(make_board(traces, [], HERE)))
    assert "0/3" in out.getvalue()
    assert "no displaced op was timed" in out.getvalue()


def test_a_reason_of_another_status_than_the_latest_measurement_is_not_told(traces: TraceSet) -> None:
    later = measured(traces, "ann_copy_a", "a3", None, status="TIMEOUT", baseline_ms=None)
    board = make_board(traces, [later], HERE)
    (found,) = [one for score in board.definitions for one in score.solutions if one.solution == "ann_copy_a"]
    assert Failure("TIMEOUT", 1, "") in found.failures


def test_markup_in_a_log_is_printed_as_it_is_and_a_long_line_is_cut() -> None:
    traces = dataset()
    traces.add_traces([evaluated("bob_copy_b", "copy_b", "b1", None, log="[red]boom[/nothing] " + "x" * 5000)])
    shown = text(traces)
    assert "[red]boom[/nothing]" in shown
    assert len(shown) < 5000


def test_many_failing_solutions_are_counted(monkeypatch: pytest.MonkeyPatch, traces: TraceSet) -> None:
    monkeypatch.setattr("fib_plugin.board.report._MOST_FAILED", 1)
    assert "1 more solutions failed (--json has all)" in text(traces)


def test_json_has_them_beside_the_numbers(traces: TraceSet) -> None:
    content = make_board(traces, [], HERE).to_dict()
    (ann,) = [
        one
        for score in content["definitions"]
        for one in score["solutions"]
        if one["solution"] == "ann_copy_a"
    ]  # fmt: skip
    assert ann["failures"][0] == {"status": "INCORRECT_NUMERICAL", "workloads": 2, "reason": WRONG.splitlines()[0]}


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", ""),
        ("3 of 9 wrong, the first:\n  [0] 1 expected 2\n  [1]", "3 of 9 wrong, the first: [0] 1 expected 2"),
        ("no answer within 5 s; the process was killed", "no answer within 5 s; the process was killed"),
        ("Traceback (most recent call last):\n  File x\nKeyError: 1\n--- output ---\nhello", "KeyError: 1"),
        ("g++ failed (see the log)\nkernel.cpp:3:1: error: expected ';'\nmore", "kernel.cpp:3:1: error: expected ';'"),
    ],
)
def test_the_line_that_says_most_is_the_reason(log: str, line: str) -> None:
    assert reason(log) == line
