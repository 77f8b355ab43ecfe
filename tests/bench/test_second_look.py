"""What seems to win is looked at twice, in processes of its own each time, and wins only if it does in both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_cases import RIGHT, dataset, solution

from fib_plugin.bench import BenchResult, examiner, run_bench
from fib_plugin.bench.child import ChildDied
from fib_plugin.bench.contest import Times
from fib_plugin.dataset import Conditions
from fib_plugin.judge import Verdict, wrong

SLOW = [2e5 + step for step in range(40)]
FAST = [1e5 + step for step in range(40)]


class Looks:
    """Stands in for the timing: each look has an outcome of its own; which children were looked at is kept."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []
        self.pids: list[tuple[int, int]] = []

    def __call__(
        self, place: Any, latency: Callable[[], float], case: Any, contender: Any, baseline: Any, check: Any
    ) -> Times | Verdict:
        if baseline is None:
            return Times(FAST, [], [], "plain", Conditions())
        self.pids.append((contender.seat.child._process.pid, baseline.seat.child._process.pid))
        for side in (contender, baseline):
            side.seat.prepare(case.sets(side.seat.displaced))
        outcome = self.outcomes[len(self.pids) - 1]
        if callable(outcome):
            outcome = outcome(contender, baseline)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome if isinstance(outcome, Verdict) else Times(*outcome)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    made = Looks()
    monkeypatch.setattr(examiner, "take_times", made)
    # The times are made up, and a made-up time may be faster than this machine.
    monkeypatch.setattr(examiner, "check_floor", lambda *_: None)
    return made


def benched(tmp_path: Path, cache: Path, *outcomes: Any, looks: Looks) -> BenchResult:
    looks.outcomes = list(outcomes)
    traces = dataset(tmp_path, solution("op", RIGHT + "\n# engine", author="engine"), solution("one", RIGHT))
    (found,) = run_bench(traces, solutions=["one"], threads=1, cache=cache)
    return found


def took(solution_ns: list[float], baseline_ns: list[float], **known: Any) -> tuple[Any, ...]:
    return solution_ns, baseline_ns, [], "plain", Conditions(**known)


def test_a_win_that_is_seen_once_is_none(tmp_path: Path, cache: Path, looks: Looks) -> None:
    found = benched(tmp_path, cache, took(FAST, SLOW), took(FAST, FAST), looks=looks).measurement
    assert (found.status, found.baseline) == ("PASSED", "op")
    assert found.ratio == pytest.approx(1.0, rel=0.01)
    assert found.ratio_low is not None
    assert found.ratio_high is not None
    assert found.ratio_low <= 1.0 < 1.9 < found.ratio_high


def test_a_win_that_is_seen_twice_is_one_with_an_interval_for_both(tmp_path: Path, cache: Path, looks: Looks) -> None:
    less = [1.5 * one for one in FAST]
    found = benched(tmp_path, cache, took(FAST, SLOW), took(FAST, less), looks=looks).measurement
    assert found.ratio == pytest.approx(1.75, rel=0.01)
    assert found.ratio_low is not None
    assert 1.4 < found.ratio_low < 1.6


def test_the_second_look_is_at_other_processes_of_both(tmp_path: Path, cache: Path, looks: Looks) -> None:
    benched(tmp_path, cache, took(FAST, SLOW), took(FAST, SLOW), looks=looks)
    first, second = looks.pids
    assert not set(first) & set(second)


def test_what_does_not_win_is_looked_at_once(tmp_path: Path, cache: Path, looks: Looks) -> None:
    benched(tmp_path, cache, took(FAST, FAST), looks=looks)
    assert len(looks.pids) == 1


def test_throttling_in_either_look_is_on_record(tmp_path: Path, cache: Path, looks: Looks) -> None:
    hot = took(FAST, SLOW, throttled=("hw_thermal",))
    found = benched(tmp_path, cache, hot, took(FAST, SLOW), looks=looks).measurement
    assert found.conditions is not None
    assert found.conditions.throttled == ("hw_thermal",)
    assert found.ratio_low == 0.0


def test_what_is_wrong_in_the_second_look_is_wrong(tmp_path: Path, cache: Path, looks: Looks) -> None:
    found = benched(tmp_path, cache, took(FAST, SLOW), wrong("in a timed call"), looks=looks)
    assert found.measurement.status == "INCORRECT_NUMERICAL"


def test_a_displaced_op_that_dies_in_the_second_look_leaves_no_win(tmp_path: Path, cache: Path, looks: Looks) -> None:
    def dies(contender: Any, baseline: Any) -> Exception:
        baseline.seat.child.close()
        return ChildDied("it was killed")

    found = benched(tmp_path, cache, took(FAST, SLOW), dies, looks=looks).measurement
    assert (found.status, found.ratio_low) == ("PASSED", 1.0)


def test_a_solution_that_dies_in_the_second_look_has_failed(tmp_path: Path, cache: Path, looks: Looks) -> None:
    def dies(contender: Any, baseline: Any) -> Exception:
        contender.seat.child.close()
        return ChildDied("it was killed")

    assert benched(tmp_path, cache, took(FAST, SLOW), dies, looks=looks).measurement.status == "RUNTIME_ERROR"
