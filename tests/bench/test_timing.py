"""Timing in turns, by a clock that the sides do not have."""

from __future__ import annotations

import numpy as np
import pytest

from fib_plugin.bench.timing import MOST_CALLS, Sample, disagrees, held_share, measure, steady


class Pretended:
    """A side that takes so long a call, and says so or something else."""

    def __init__(
        self, microseconds: float, log: list[tuple[str, int]], name: str = "", slow_clock: float = 1.0
    ) -> None:
        self.progress = 0.0
        self.sets = 3
        self.most = MOST_CALLS
        self._ns, self._log, self._name, self._slow = microseconds * 1e3, log, name, slow_clock
        self._draw = np.random.default_rng(7)

    def burst(self, calls: int) -> Sample:
        self._log.append((self._name, calls))
        wall = calls * self._ns * self._draw.uniform(0.99, 1.01)
        return Sample(wall, wall / self._slow, wall + 30e3, calls)


def timed(*sides: Pretended, seconds: float = 0.1) -> list[list[Sample]]:
    return measure(sides, seconds, np.random.default_rng(1))


def test_two_sides_are_sampled_in_pairs_and_told_apart() -> None:
    slow, fast = steady(timed(Pretended(200, []), Pretended(100, [])))
    assert len(slow) == len(fast) >= 7
    assert np.median(slow) / np.median(fast) == pytest.approx(2.0, rel=0.03)


def test_sides_take_turns_in_an_order_that_changes() -> None:
    log: list[tuple[str, int]] = []
    timed(Pretended(300, log, "a"), Pretended(300, log, "b"))
    names = [name for name, _ in log[-40:]]
    pairs = {"".join(names[index : index + 2]) for index in range(0, 40, 2)}
    assert pairs == {"ab", "ba"}


def test_every_set_is_seen_once_before_anything_counts() -> None:
    log: list[tuple[str, int]] = []
    timed(Pretended(300, log, "a"), Pretended(300, log, "b"))
    assert log[:6] == [("a", 1), ("b", 1)] * 3


def test_a_burst_has_an_unforeseeable_length() -> None:
    log: list[tuple[str, int]] = []
    timed(Pretended(10, log), Pretended(10, log))
    assert len({calls for _, calls in log[-20:]}) > 5


def test_solution_and_displaced_op_make_as_many_calls_a_burst_as_each_other() -> None:
    log: list[tuple[str, int]] = []
    timed(Pretended(10, log, "a"), Pretended(16, log, "b"))
    bursts = log[-40:]
    assert len({calls for _, calls in bursts}) > 5
    for first, second in zip(bursts[::2], bursts[1::2], strict=True):
        assert first[1] == second[1]


def test_a_side_that_was_held_up_at_first_has_no_short_bursts_ever_after() -> None:
    log: list[tuple[str, int]] = []
    late, other = Pretended(10, log, "late"), Pretended(10, log, "other")
    on_time, asked = late.burst, iter(range(10_000))

    def burst(calls: int) -> Sample:
        one = on_time(calls)
        more = 2e6 if next(asked) < 14 else 0.0
        return Sample(one.ns + more, one.own_ns + more, one.wall_ns + more, calls)

    late.burst = burst  # type: ignore[method-assign]
    timed(late, other)
    assert min(calls for _, calls in log[-10:]) > 80


def test_a_side_whose_bursts_are_bounded_is_asked_for_no_longer_ones() -> None:
    log: list[tuple[str, int]] = []
    bounded, other, toll = Pretended(1, log, "bounded"), Pretended(1, log, "other"), Pretended(0.5, log, "toll")
    bounded.most = 12
    timed(bounded, other, toll)
    assert max(calls for name, calls in log if name == "bounded") == 12
    assert max(calls for name, calls in log[-30:] if name == "other") <= 12
    assert max(calls for name, calls in log if name == "toll") > 500


def test_a_hopeless_solution_is_not_run_longer_than_needed() -> None:
    slow: list[tuple[str, int]] = []
    timed(Pretended(100_000, slow), Pretended(1, []), seconds=0.05)
    assert len(slow) <= 5


def test_pairs_that_the_host_held_up_do_not_count() -> None:
    held_up = [Sample(9e6, 1e6, 9e6, 10) for _ in range(8)]
    fine = [Sample(1e6, 1e6, 1e6, 10) for _ in range(12)]
    mine, theirs = steady([held_up + fine, [*fine, *fine][:20]])
    assert set(mine) == set(theirs) == {1e5}


def test_the_share_of_time_without_a_core_is_a_threads() -> None:
    sides = [[Sample(1e6, 1e6, 1e6, 10, held_ns=4e5)] * 3, [Sample(1e6, 1e6, 1e6, 10)] * 3]
    assert held_share(sides) == pytest.approx(0.2)
    assert held_share(sides, threads=2) == pytest.approx(0.1)


@pytest.mark.parametrize(("slow_clock", "caught"), [(1.0, False), (10.0, True), (0.1, True)])
def test_a_clock_of_the_child_that_disagrees_is_seen(slow_clock: float, caught: bool) -> None:
    side = Pretended(50, [], slow_clock=slow_clock)
    (samples,) = timed(side)
    assert bool(disagrees(side, samples)) is caught


def test_a_busy_host_is_no_foul() -> None:
    late = [Sample(8e6, 1e5, 8e6, 100) for _ in range(7)]
    busy = Pretended(1, [])
    on_time = busy.burst

    def burst(calls: int) -> Sample:
        one = on_time(calls)
        return Sample(one.ns + 8e6, one.own_ns, one.wall_ns + 8e6, calls)

    busy.burst = burst  # type: ignore[method-assign]
    assert disagrees(busy, late) == ""
