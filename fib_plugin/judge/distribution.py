"""How draws are distributed: their law, and the chi-square test of it. The judge of samplers calls it."""

from __future__ import annotations

from math import erfc, exp, lgamma, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

#: A chi-square statistic follows its law when no bin expects fewer draws than this.
FEWEST_EXPECTED = 5.0
#: Mass by which float32 sums over a vocabulary may differ: tokens this near the edge of a nucleus may be in or out.
EDGE = 1e-4

Array = np.ndarray[Any, Any]


def certain_tokens(probs: torch.Tensor, k: int, p: float) -> tuple[Array, Array]:
    """Tokens that are in the support beyond doubt, and their probabilities given that one of them was drawn.

    Given that, the distribution does not depend on how a sampler settles ties and rounding at the edges.
    """
    ranked = probs.float().sort(descending=True, stable=True)
    order = ranked.indices.cpu().numpy()
    values = ranked.values.cpu().numpy().astype(np.float64)
    certain = values > 0.0
    if k < len(values):
        tied = values[k - 1] == values[k]
        certain &= values > values[k - 1] if tied else np.arange(len(values)) < k
        values = values / values[:k].sum()
    if p < 1.0:
        # A tie may be taken in any order, so a token counts with all equals before it.
        before = np.concatenate(([0.0], np.cumsum(values)[:-1]))
        last = np.searchsorted(-values, -values, side="right") - 1
        certain &= (before[last] < p - EDGE) | ((np.arange(len(values)) == 0) & (last == 0))
    chosen = values[certain]
    return order[certain], chosen / chosen.sum() if len(chosen) else chosen


def quantiles(drawn: Array, tokens: Array, probs: Array, random: np.random.Generator) -> Array:
    """Where draws lie in their own distribution, from 0 to 1: even, whatever the distribution, for a right sampler.

    A draw lies at random within its token's share; ``drawn`` that are not among ``tokens`` are left out.
    """
    places = {token: place for place, token in enumerate(tokens.tolist())}
    found = np.array([places[token] for token in drawn.tolist() if token in places], dtype=np.int64)
    ends = np.cumsum(probs)
    result: Array = ends[found] - probs[found] * random.random(len(found)) if len(found) else np.zeros(0)
    return result


def chi_square(counts: Array, probs: Array, shuffle: np.random.Generator) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom, rare tokens merged at random until a bin expects enough draws."""
    total = int(counts.sum())
    expected = probs * total
    large = expected >= FEWEST_EXPECTED
    rest = shuffle.permutation(np.flatnonzero(~large))
    # Each token expects less than the least, so a cut at every second multiple leaves each bin at least that.
    bins = (np.cumsum(expected[rest]) // (2 * FEWEST_EXPECTED)).astype(np.int64)
    merged_expected = np.bincount(bins, expected[rest]) if len(rest) else np.zeros(0)
    merged_counts = np.bincount(bins, counts[rest]) if len(rest) else np.zeros(0)
    wanted = np.concatenate((expected[large], merged_expected))
    found = np.concatenate((counts[large], merged_counts)).astype(np.float64)
    # The last bin may be short; it joins the largest.
    small = wanted < FEWEST_EXPECTED
    if small.any() and not small.all():
        home = int(np.argmax(wanted))
        wanted[home] += wanted[small].sum()
        found[home] += found[small].sum()
        wanted, found = wanted[~small], found[~small]
    if len(wanted) < 2 or small.all():
        return 0.0, 0
    return float(((found - wanted) ** 2 / wanted).sum()), len(wanted) - 1


def survival(statistic: float, freedom: int) -> float:
    """P(chi-square with ``freedom`` degrees > ``statistic``): the finite sum that whole degrees allow."""
    if freedom <= 0 or statistic <= 0.0:
        return 1.0
    half = statistic / 2.0
    # Q(a + 1, x) = Q(a, x) + x^a e^-x / Gamma(a + 1), from Q(1/2, x) = erfc(sqrt x) or Q(0, x) = 0.
    a, total = (0.5, erfc(sqrt(half))) if freedom % 2 else (0.0, 0.0)
    while a < freedom / 2.0 - 0.25:
        total += exp(a * np.log(half) - half - lgamma(a + 1.0))
        a += 1.0
    return min(1.0, float(total))
