"""Ratio of two interleaved timings, with the interval that decides whether a win is a win. Judges speed, not values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_RESAMPLES = 1000
#: How much two processes that run the same code differ for as long as they live, by where their memory lies:
#: a standard deviation of half of it in `scripts/bench_false_wins.py`. No sample of one process shows it.
_PROCESSES_DIFFER = 0.01
#: Samples further away from the median than so many deviations are cut there before neighbours are compared.
_CUT = 2.5
#: A median absolute deviation, times this, is a normal distribution's standard deviation.
_MAD = 1.4826

_Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Medians in ms; ``value`` is baseline / (solution + toll), ``low`` and ``high`` the ends of its 95% interval."""

    solution_ms: float
    baseline_ms: float
    value: float
    low: float
    high: float


def ratio(
    solution_ns: Sequence[float], baseline_ns: Sequence[float], toll_ns: Sequence[float] = (), seed: int = 0
) -> Ratio:
    """Compare paired samples, in the order in which they were taken.

    The value is the ratio of the medians. The interval is that of the median of the pairs' own ratios, from which
    what slows both sides of a pair drops out: the bootstrap's, of the logarithms; wider where neighbouring pairs
    resemble each other, where they are few, and for what two processes differ by. It holds the median of each half of
    the pairs, and the value. How often ``low`` is above what is true, tests/judge/test_false_wins.py states.

    Args:
        solution_ns, baseline_ns: times of a call, one pair after the other.
        toll_ns: what using the solution costs besides the solution; it counts on its side.
        seed: of the resampling.
    """
    solution, baseline = np.asarray(solution_ns, np.float64), np.asarray(baseline_ns, np.float64)
    if len(toll_ns):
        solution = solution + np.asarray(toll_ns, np.float64)
    medians = float(np.median(solution)), float(np.median(baseline))
    value = medians[1] / medians[0]
    logs = np.log(baseline / solution)
    middle = float(np.median(logs))
    chosen = np.random.default_rng(seed).integers(0, len(logs), (_RESAMPLES, len(logs)))
    ends = np.percentile(np.median(logs[chosen], axis=1), (2.5, 97.5))
    wider = _widening(logs)
    below, above = (np.hypot(wider * (end - middle), _PROCESSES_DIFFER) for end in ends)
    others = [np.log(value), *(np.median(half) for half in np.array_split(logs, 2) if len(half))]
    low, high = np.exp(min(middle - below, *others)), np.exp(max(middle + above, *others))
    return Ratio(medians[0] / 1e6, medians[1] / 1e6, value, min(float(low), value), max(float(high), value))


def together(first: Ratio, second: Ratio) -> Ratio:
    """What two looks in processes of their own say, of which each may be wrong in the same way all along.

    Where one of them sees no win, it is the one that counts. Where both do, their mean (of logarithms, as in `ratio`),
    with an interval for the errors of both and for what the looks themselves differ by.
    """
    if min(first.low, second.low) <= 1.0:
        worse = min(first, second, key=lambda look: look.low)
        return replace(worse, high=max(first.high, second.high))
    solution_ms = (first.solution_ms + second.solution_ms) / 2
    baseline_ms = (first.baseline_ms + second.baseline_ms) / 2
    value = baseline_ms / solution_ms
    values, lows, highs = (
        np.log([getattr(look, name) for look in (first, second)]) for name in ("value", "low", "high")
    )
    middle, apart = float(values.mean()), float(abs(values[0] - values[1])) / 2
    below, above = (float(np.hypot(np.hypot(*(values - ends)) / 2, apart)) for ends in (lows, highs))
    low, high = float(np.exp(middle - below)), float(np.exp(middle + above))
    return Ratio(solution_ms, baseline_ms, value, min(low, value), max(high, value))


def median_ms(samples_ns: Sequence[float]) -> float:
    """Median of nanoseconds, in ms."""
    return float(np.median(np.asarray(samples_ns, np.float64))) / 1e6


def _widening(series: _Array) -> float:
    """By how much the bootstrap's interval of ``series`` is too narrow.

    Neighbours that resemble each other make it so many samples of fewer, and of few samples the quantile is Student's
    (by its expansion at 97.5%, Abramowitz and Stegun 26.7.5), over the normal distribution's.
    """
    time = _correlation_time(series)
    freedom = max(len(series) / time - 1.0, 1.0)
    return float(np.sqrt(time) * (1.0 + 1.21 / freedom + 1.44 / freedom**2))


def _correlation_time(series: _Array) -> float:
    """Of how many samples one is worth: 1 and twice the sum of the autocorrelations, up to where they vanish.

    Pairs of them are summed as long as they are positive (Geyer 1992, the initial positive sequence).
    """
    away = series - np.median(series)
    deviation = _MAD * float(np.median(np.abs(away)))
    kept = np.clip(away, -_CUT * deviation, _CUT * deviation)
    kept = kept - kept.mean()
    variance = float(kept @ kept)
    if variance == 0.0:
        return 1.0
    lags = range(1, len(kept) // 3 + 1)
    alike = [float(kept[lag:] @ kept[:-lag]) / variance for lag in lags]
    time = 1.0
    for pair in (alike[at : at + 2] for at in range(0, len(alike), 2)):
        if sum(pair) <= 0.0:
            break
        time += 2.0 * sum(pair)
    return max(time, 1.0)
