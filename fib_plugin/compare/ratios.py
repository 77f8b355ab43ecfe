"""What two sides measured in turns come to: a ratio for each round, their median, quartiles and its 95% interval."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Ratios:
    """Of ``off`` to ``on``, so that more than 1 says that ``on`` is better, whichever way the measure goes.

    Args:
        rounds: how many pairs.
        off, on: medians of what was measured.
        ratio: median of the pairs' ratios; a drift that hits both sides of a pair leaves it alone.
        quartiles: of the pairs' ratios: the middle half of them lies between.
        interval: in which the median lies with 95%, by resampling the pairs. Of few rounds it is not much more than
            the lowest and the highest ratio.
    """

    rounds: int
    off: float
    on: float
    ratio: float
    quartiles: tuple[float, float]
    interval: tuple[float, float]

    @property
    def decided(self) -> bool:
        """Whether the interval says that there is a difference at all."""
        return self.interval[0] > 1 or self.interval[1] < 1

    def to_dict(self) -> dict[str, object]:
        return {
            "rounds": self.rounds,
            "off": _short(self.off),
            "on": _short(self.on),
            "ratio": round(self.ratio, 4),
            "quartiles": [round(value, 4) for value in self.quartiles],
            "interval": [round(value, 4) for value in self.interval],
            "decided": self.decided,
        }


def ratios(off: Sequence[float], on: Sequence[float], *, higher_is_better: bool = False) -> Ratios:
    """Compares what both sides measured in the same rounds.

    Raises:
        ValueError: no round, rounds that only one side has, or a measure that is not above 0.
    """
    if not off or len(off) != len(on):
        raise ValueError(f"{len(off)} rounds without the plugin and {len(on)} with it cannot be paired")
    if min(*off, *on) <= 0:
        raise ValueError("a measure of 0 or less has no ratio")
    pairs = [b / a if higher_is_better else a / b for a, b in zip(off, on, strict=True)]
    return Ratios(
        rounds=len(pairs),
        off=statistics.median(off),
        on=statistics.median(on),
        ratio=statistics.median(pairs),
        quartiles=_ends(pairs, 0.25),
        interval=_ends(_medians(pairs), 0.025),
    )


def _medians(pairs: Sequence[float]) -> list[float]:
    draw = random.Random(0)
    return [statistics.median(draw.choices(pairs, k=len(pairs))) for _ in range(_RESAMPLES)]


def _ends(values: Sequence[float], share: float) -> tuple[float, float]:
    """The quantiles at ``share`` from either end, between neighbours where they fall there."""
    ordered = sorted(values)

    def at(quantile: float) -> float:
        place = quantile * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (place - below)

    return at(share), at(1 - share)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
