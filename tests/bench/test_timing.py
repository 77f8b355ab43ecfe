"""Interleaved timing."""

from __future__ import annotations

import time

import numpy as np
import pytest

from fib_plugin.bench.timing import measure

PAIR = [(0,), (1,)]


def spin(microseconds: float) -> None:
    end = time.perf_counter_ns() + microseconds * 1e3
    while time.perf_counter_ns() < end:
        pass


def test_two_calls_are_sampled_in_pairs_and_told_apart() -> None:
    slow, fast = measure([(lambda x: spin(200), PAIR), (lambda x: spin(100), PAIR)], 0.1, "cpu")
    assert len(slow) == len(fast) >= 7
    assert 1.5 < np.median(slow) / np.median(fast) < 2.5


def test_calls_take_turns_over_all_sets() -> None:
    seen: list[tuple[str, int]] = []
    calls = [lambda x: (seen.append(("a", x)), spin(300)), lambda x: (seen.append(("b", x)), spin(300))]
    measure([(call, [(0,), (1,), (2,)]) for call in calls], 0.02, "cpu")
    names = "".join(name for name, _ in seen[-14:])
    assert names == "ab" * 7
    assert {("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)} <= set(seen[-14:])


def test_a_replaced_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter_ns", lambda: 0)
    (times,) = measure([(lambda x: sum(range(1000)), [(0,)])], 0.02, "cpu")
    assert np.median(times) > 1000


def test_a_hopeless_solution_is_not_run_longer_than_needed() -> None:
    count = [0]

    def slow(x: int) -> None:
        count[0] += 1
        spin(100_000)

    measure([(slow, PAIR), (lambda x: None, PAIR)], 0.05, "cpu")
    assert count[0] <= 4


def test_contestants_may_rotate_through_sets_of_their_own() -> None:
    seen: list[object] = []
    measure(
        [(lambda x: spin(300), PAIR), (lambda ready: (seen.append(ready), spin(300)), [("p",), ("q",)])], 0.02, "cpu"
    )
    assert set(seen) == {"p", "q"}
