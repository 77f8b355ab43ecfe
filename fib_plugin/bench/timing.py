"""Timing by the parent's clock: sides take turns in bursts, A B A B, so that what slows one slows its partner too.

A side is a child that answers; no clock that a solution can reach is on record. The benchmark's examiner calls it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

#: Of a burst.
MOST_CALLS = 2048
_BURST_NS = 1_500_000
_MOST_PAIRS = 101
_MOST_ESTIMATES = 8
_PATIENCE = 6.0
#: Bursts that a first round of the sets takes.
_VISITS = 12
#: A solution this many times slower than the displaced op has lost; one sample says so as well as many.
_HOPELESS = 3.0
_FEWEST_STEADY = 11
#: Bursts are of random length, so that a solution cannot know which of its calls is the last one, which is judged.
_SHORTEST = 0.6
#: So long a burst is held against the child's own measurement of it at first, and at most; so much of it must agree.
_LONG_NS, _LONGEST_NS, _TRIES, _LEAST_SEEN = 15_000_000, 2_000_000_000, 6, 0.6


@dataclass(frozen=True, slots=True)
class Sample:
    """One burst: nanoseconds by the clock on record, by the child's own, and by the parent's; and how many calls.

    ``held_ns``: for how long the child's threads had no core though they could have run, by the kernel's account, each
    counted. Only where the CPU's time is on record.
    """

    ns: float
    own_ns: float
    wall_ns: float
    calls: int
    held_ns: float = 0.0


class Side(Protocol):
    """What is timed."""

    #: How far the measurement has come, from 0 to 1.
    progress: float

    @property
    def sets(self) -> int:
        """How many input sets it rotates through."""
        ...

    @property
    def most(self) -> int:
        """Of how many calls a burst is at most, where its time counts."""
        ...

    def burst(self, calls: int) -> Sample: ...


def measure(sides: Sequence[Side], seconds: float, draw: np.random.Generator) -> list[list[Sample]]:
    """Samples of each side, taken in turns; lists of equal length.

    Solution and displaced op, the first two, make as many calls a burst as each other: what a burst costs besides its
    calls is then the same share of both. How many is thought over again as samples come in, since a host that was busy
    at first is no reason for short bursts ever after.
    """
    _visit(sides, seconds)
    estimates = [_calibrate(side, seconds) for side in sides]
    samples: list[list[Sample]] = [[] for _ in sides]
    spent, stop_at = 0.0, time.monotonic() + _PATIENCE * seconds
    for pair in range(_MOST_PAIRS):
        calls = _calls(sides, estimates)
        pair_ns = sum(estimate * count for estimate, count in zip(estimates, calls, strict=True))
        fewest = _fewest(estimates, pair_ns)
        # Past its time, a busy host ends it: what there is must do.
        if pair >= fewest and (spent > seconds * 1e9 - pair_ns or time.monotonic() > stop_at):
            break
        share = draw.uniform(_SHORTEST, 1.0)
        for index in draw.permutation(len(sides)).tolist():  # who comes first finds another state of the host
            side = sides[index]
            side.progress = pair / max(fewest, min(_MOST_PAIRS, seconds * 1e9 / pair_ns))
            samples[index].append(side.burst(max(1, round(share * calls[index]))))
            spent += samples[index][-1].ns
        estimates = [float(np.median([one.ns / one.calls for one in taken])) for taken in samples]
    return samples


def _calls(sides: Sequence[Side], estimates: Sequence[float]) -> list[int]:
    """Of how many calls a burst of each side is at most."""
    calls = [max(1, min(side.most, round(_BURST_NS / one))) for side, one in zip(sides, estimates, strict=True)]
    if len(sides) > 1 and max(estimates[:2]) <= _HOPELESS * min(estimates[:2]):
        calls[:2] = [min(max(calls[:2]), sides[0].most, sides[1].most)] * 2
    return calls


def _fewest(estimates: Sequence[float], pair_ns: float) -> int:
    """How many pairs there must be, however long they take."""
    if len(estimates) == 1:
        return 3 if pair_ns < 2e8 else 1
    if estimates[0] > _HOPELESS * min(estimates[:2]):
        return 1
    return 21 if pair_ns < 2e7 else 7 if pair_ns < 2e8 else 5 if pair_ns < 1e9 else 3


def steady(samples: Sequence[Sequence[Sample]]) -> list[list[float]]:
    """Nanoseconds of a call, one value a burst of each side: of the half of the pairs whose answers were least late.

    A busy host holds up now a child, now its answer, which is no time of the solution's. Which pairs count depends on
    the children's clocks, what they count as does not.
    """
    pairs = list(zip(*samples, strict=True))
    late = [max(one.wall_ns - one.own_ns for one in pair) for pair in pairs]
    best = sorted(range(len(pairs)), key=late.__getitem__)[: max(_FEWEST_STEADY, len(pairs) // 2)]
    return [[side[index].ns / side[index].calls for index in sorted(best)] for side in samples]


def held_share(samples: Sequence[Sequence[Sample]], threads: int = 1) -> float:
    """The share of the bursts' time for which a thread of their sides could have run and had no core, in the mean."""
    every = [one for side in samples for one in side]
    spent = threads * sum(one.wall_ns for one in every)
    return round(sum(one.held_ns for one in every) / spent, 4) if spent > 0 else 0.0


def disagrees(side: Side, samples: Sequence[Sample]) -> str:
    """How the child's clock differs from the parent's, in words; empty where it does not.

    Bursts grow until what a busy host adds to them, which no child's clock sees, is the lesser part; a clock that runs
    at another speed is off in all of them.
    """
    calls = max(1, round(_LONG_NS / float(np.median([sample.wall_ns / sample.calls for sample in samples]))))
    for _ in range(_TRIES):
        one = side.burst(calls)
        if _LEAST_SEEN < one.own_ns / one.wall_ns < 1.0 / _LEAST_SEEN:
            return ""
        if one.wall_ns > _LONGEST_NS:
            break
        calls *= 3
    return f"a burst takes {one.wall_ns / 1e3:.0f} us by the benchmark's clock and {one.own_ns / 1e3:.0f} us by its own"


def _visit(sides: Sequence[Side], seconds: float) -> None:
    """Call everything once on each set: ops plan and pack weights at first sight, once per layer in an engine."""
    spent = 0.0
    step = max(1, sides[0].sets // _VISITS)
    for _ in range(-(-sides[0].sets // step)):
        for side in sides:
            spent += side.burst(step).wall_ns
        if spent > seconds * 1e9:
            return


def _calibrate(side: Side, seconds: float) -> float:
    """Nanoseconds of a call, roughly."""
    calls, spent = 1, 0.0
    while True:
        took = side.burst(calls).ns
        spent += took
        if took > _BURST_NS / 4 or calls >= side.most:
            break
        calls = min(4 * calls, side.most)
    for _ in range(_MOST_ESTIMATES):
        if spent > 0.05 * seconds * 1e9:
            break
        again = side.burst(calls).ns
        spent, took = spent + again, min(took, again)
    return max(took / calls, 1.0)
