"""Gaps and Reservoir: every call is as likely as another, and the same seed chooses the same calls."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fib_plugin.capture.policy_sample import FOREVER, Gaps, Reservoir


def members(k: int, calls: int, seed: int) -> list[int]:
    """The calls that a reservoir holds after a stream."""
    reservoir, slots, at = Reservoir(k, random.Random(seed)), {}, 0
    while True:
        at += reservoir.wait
        if at >= calls:
            return sorted(slots.values())
        slots[reservoir.enter()[0]] = at
        at += 1


@given(st.integers(1, 20), st.integers(0, 300), st.integers(0, 2**32))
def test_a_reservoir_holds_k_different_calls_or_all_of_a_short_stream(k: int, calls: int, seed: int) -> None:
    held = members(k, calls, seed)
    assert len(held) == len(set(held)) == min(k, calls)
    assert all(0 <= call < calls for call in held)


@given(st.integers(1, 20), st.integers(0, 300), st.integers(0, 2**32))
def test_the_same_seed_chooses_the_same_calls(k: int, calls: int, seed: int) -> None:
    assert members(k, calls, seed) == members(k, calls, seed)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 8), st.integers(10, 40), st.integers(0, 2**32))
def test_every_call_of_the_stream_is_as_likely_as_another(k: int, calls: int, seed: int) -> None:
    runs = 3000
    found = Counter(call for run in range(runs) for call in members(k, calls, seed * runs + run))
    share = min(k, calls) / calls
    # Six standard deviations: one of some 400 counts passes that once in a million runs of this test.
    allowed = 6 * math.sqrt(runs * share * (1 - share)) + 1
    for call in range(calls):
        assert abs(found[call] - runs * share) < allowed, (call, found[call])


def test_few_calls_of_a_long_stream_enter() -> None:
    reservoir, at, entered = Reservoir(64, random.Random(0)), 0, 0
    while at < 10**9:
        at += reservoir.wait + 1
        reservoir.enter()
        entered += 1
    assert entered < 64 * (1 + math.log(10**9 / 64)) * 1.3


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_the_mean_gap_is_that_of_the_rate(rate: float, seed: int) -> None:
    gaps, draws = Gaps(rate, random.Random(seed)), 20_000
    mean = sum(gaps.draw() for _ in range(draws)) / draws
    expected, deviation = 1 / rate - 1, math.sqrt(1 - rate) / rate / math.sqrt(draws)
    assert abs(mean - expected) < 6 * deviation


@pytest.mark.parametrize(("rate", "gap"), [(1.0, 0), (0.0, FOREVER)])
def test_all_and_none_need_no_draw(rate: float, gap: int) -> None:
    assert {Gaps(rate, random.Random(0)).draw() for _ in range(10)} == {gap}


def test_a_tiny_rate_is_no_overflow() -> None:
    gaps = Gaps(1e-300, random.Random(0))
    assert all(0 <= gaps.draw() <= FOREVER for _ in range(100))
