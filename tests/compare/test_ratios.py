"""Ratios of two sides: more than 1 is better, whichever way the measure goes, with the spread that it has."""

from __future__ import annotations

import pytest

from fib_plugin.compare.ratios import ratios


def test_a_time_that_is_halved_is_a_ratio_of_two() -> None:
    found = ratios([10.0, 12.0, 11.0], [5.0, 6.0, 5.5])
    assert found.ratio == 2.0
    assert found.interval == (2.0, 2.0)
    assert (found.off, found.on, found.rounds) == (11.0, 5.5, 3)


def test_a_throughput_that_is_doubled_is_a_ratio_of_two() -> None:
    assert ratios([10.0, 11.0], [20.0, 22.0], higher_is_better=True).ratio == 2.0


def test_a_drift_that_hits_both_sides_of_a_round_leaves_the_ratio_alone() -> None:
    off = [1.0, 2.0, 4.0, 8.0]
    found = ratios(off, [value * 0.8 for value in off])
    assert found.ratio == pytest.approx(1.25)
    assert found.quartiles == pytest.approx((1.25, 1.25))


def test_quartiles_hold_the_middle_half_of_the_pairs() -> None:
    found = ratios([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)
    assert (found.quartiles, found.ratio) == ((2.0, 4.0), 3.0)


def test_the_interval_lies_within_the_pairs_and_holds_the_median() -> None:
    found = ratios([1.0, 1.3, 0.9, 1.1, 1.2, 1.0, 0.95], [1.0] * 7)
    assert 0.9 <= found.interval[0] <= found.ratio <= found.interval[1] <= 1.3
    assert found == ratios([1.0, 1.3, 0.9, 1.1, 1.2, 1.0, 0.95], [1.0] * 7)


@pytest.mark.parametrize(
    ("off", "decided"), [([1.2, 1.21, 1.19] * 4, True), ([0.8, 0.81, 0.79] * 4, True), ([0.8, 1.2, 1.0] * 4, False)]
)
def test_a_difference_is_decided_when_the_interval_leaves_one_out(off: list[float], decided: bool) -> None:
    assert ratios(off, [1.0] * len(off)).decided is decided


@pytest.mark.parametrize(("off", "on"), [([], []), ([1.0], []), ([1.0, 2.0], [1.0]), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_what_cannot_be_compared_is_refused(off: list[float], on: list[float]) -> None:
    with pytest.raises(ValueError, match=r"cannot be paired|has no ratio"):
        ratios(off, on)
