"""Turns: warm-up does not count, and no side is always first."""

from __future__ import annotations

from functools import partial

from fib_plugin.compare.turns import in_turns


def test_each_side_runs_once_a_round_and_who_is_first_alternates() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    taken = in_turns({"off": partial(run, "off"), "on": partial(run, "on")}, 2, warmup=1)
    assert order == ["on", "off", "off", "on", "on", "off"]
    assert taken == {"off": [3.0, 6.0], "on": [4.0, 5.0]}


def test_warm_up_rounds_are_told_and_not_kept() -> None:
    told: list[tuple[int, str, float]] = []
    taken = in_turns({"off": lambda: 1.0, "on": lambda: 2.0}, 1, warmup=2, tell=lambda *what: told.append(what))
    assert taken == {"off": [1.0], "on": [2.0]}
    assert [number for number, _, _ in told] == [-1, -1, 0, 0, 1, 1]


def test_without_a_warm_up_the_first_round_counts() -> None:
    assert in_turns({"off": lambda: 1.0, "on": lambda: 2.0}, 1, warmup=0) == {"off": [1.0], "on": [2.0]}
