"""Ratio of two interleaved timings, with the interval that decides whether a win is a win. Judges speed, not values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 1000


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
    """Compare paired samples; pairs are resampled together, so drift that hits both does not widen the interval.

    ``toll_ns`` is what using the solution costs besides the solution; it counts on its side.
    """
    solution, baseline = np.asarray(solution_ns, np.float64), np.asarray(baseline_ns, np.float64)
    if len(toll_ns):
        solution = solution + np.asarray(toll_ns, np.float64)
    medians = float(np.median(solution)), float(np.median(baseline))
    chosen = np.random.default_rng(seed).integers(0, len(solution), (_RESAMPLES, len(solution)))
    resampled = np.median(baseline[chosen], axis=1) / np.median(solution[chosen], axis=1)
    low, high = (float(end) for end in np.percentile(resampled, (2.5, 97.5)))
    value = medians[1] / medians[0]
    return Ratio(medians[0] / 1e6, medians[1] / 1e6, value, min(low, value), max(high, value))


def median_ms(samples_ns: Sequence[float]) -> float:
    """Median of nanoseconds, in ms."""
    return float(np.median(np.asarray(samples_ns, np.float64))) / 1e6
