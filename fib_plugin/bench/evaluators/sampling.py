"""Judges samplers: every token must be one the filters allow, and repeated draws must follow the right distribution.

A right sampler fails the distribution test once in 5000 evaluations (`FALSE_ALARM`), whatever the size of its nucleus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, exp, lgamma, sqrt
from typing import Any

import numpy as np

from fib_plugin.bench.evaluators.verdict import Verdict, wrong
from fib_plugin.schema import Correctness, Definition, EvaluationStatus

FALSE_ALARM = 2e-4
#: A chi-square statistic follows its law when no bin expects fewer draws than this.
_FEWEST_EXPECTED = 5.0
#: Mass by which float32 sums over a vocabulary may differ: tokens this near the edge of a nucleus may be in or out.
_EDGE = 1e-4

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Filters:
    """The inputs of a sampler as arrays: probs [batch, vocab], and per-row limits where the definition has them."""

    probs: Array
    top_k: Array | None
    top_p: Array | None

    @classmethod
    def of(cls, definition: Definition, inputs: Sequence[Any]) -> Filters:
        values = dict(zip(definition.inputs, inputs, strict=True))

        def array(name: str) -> Array | None:
            value = values.get(name)
            return None if value is None else np.atleast_1d(value.cpu().numpy())

        probs = np.atleast_2d(values["probs"].float().cpu().numpy())
        return cls(probs, array("top_k"), array("top_p"))

    def limit(self, row: int) -> tuple[int, float]:
        """k and p of a row; the whole vocabulary and 1 when there is no such limit."""
        vocabulary = self.probs.shape[1]
        k = vocabulary if self.top_k is None else int(self.top_k[row % len(self.top_k)])
        p = 1.0 if self.top_p is None else float(self.top_p[row % len(self.top_p)])
        return (k if 0 < k < vocabulary else vocabulary), p


def judge_support(filters: Filters, samples: Array) -> Verdict | None:
    """None when every one of ``samples`` [..., batch] is a token that its row's filters allow."""
    rows = filters.probs.shape[0]
    for row, tokens in enumerate(np.reshape(samples, (-1, rows)).T):
        probs = filters.probs[row]
        tokens = np.unique(tokens)
        outside = tokens[(tokens < 0) | (tokens >= len(probs))]
        if len(outside):
            return wrong(f"row {row}: token {outside[0]} is outside the vocabulary of {len(probs)}")
        k, p = filters.limit(row)
        kept, mass = probs, 1.0
        if k < len(probs):
            largest = np.partition(probs, len(probs) - k)[len(probs) - k :]
            edge, mass = largest[0], float(largest.sum(dtype=np.float64))
            # Ties at the edge: which of them are kept is the sampler's choice, so all are allowed.
            kept = np.where(probs >= edge, probs, 0.0)
        for token in tokens.tolist():
            before = float(kept[kept > kept[token]].sum(dtype=np.float64)) / mass
            if kept[token] <= 0.0 or (before > 0.0 and before >= p + _EDGE):
                return wrong(
                    f"row {row}: token {token} (probability {probs[token]:.3g}, {before:.4f} of the mass before it) "
                    f"is not among those that top_k={k}, top_p={p:.4f} leave"
                )
    return None


def judge_draws(filters: Filters, samples: Array, groups: int, seed: int) -> Verdict:
    """Test ``samples`` [draws, batch], whose rows repeat ``groups`` distributions, against what they should follow."""
    verdict = judge_support(Filters(filters.probs[:groups], filters.top_k, filters.top_p), _by_group(samples, groups))
    if verdict is not None:
        return verdict
    shuffle = np.random.default_rng(seed)
    statistic, freedom = 0.0, 0
    for group in range(groups):
        tokens, probs = certain_tokens(filters.probs[group], *filters.limit(group))
        drawn = _by_group(samples, groups)[:, group]
        counts = np.bincount(drawn, minlength=filters.probs.shape[1])[tokens]
        part, degrees = chi_square(counts, probs, shuffle)
        statistic, freedom = statistic + part, freedom + degrees
    chance = survival(statistic, freedom)
    correctness = Correctness(
        max_relative_error=0.0,
        max_absolute_error=0.0,
        extra={"draws": int(samples.size), "chi_square": statistic, "degrees_of_freedom": freedom, "p_value": chance},
    )
    if chance < FALSE_ALARM:
        return wrong(
            f"the draws do not follow the distribution: chi-square {statistic:.1f} at {freedom} degrees of freedom, "
            f"p = {chance:.2g} after {samples.size} draws (limit {FALSE_ALARM:g})",
            correctness,
        )
    return Verdict(EvaluationStatus.PASSED, correctness)


def _by_group(samples: Array, groups: int) -> Array:
    """[draws, batch] -> [more draws, groups]; a last incomplete round of the rows is left out."""
    whole = samples.shape[1] // groups * groups
    return samples[:, :whole].reshape(-1, groups)


def certain_tokens(probs: Array, k: int, p: float) -> tuple[Array, Array]:
    """Tokens that are in the support beyond doubt, and their probabilities given that one of them was drawn.

    Given that, the distribution does not depend on how a sampler settles ties and rounding at the edges.
    """
    order = np.argsort(-probs, kind="stable")
    values = probs[order].astype(np.float64)
    certain = values > 0.0
    if k < len(values):
        tied = values[k - 1] == values[k]
        certain &= values > values[k - 1] if tied else np.arange(len(values)) < k
        values = values / values[:k].sum()
    if p < 1.0:
        # A tie may be taken in any order, so a token counts with all equals before it.
        before = np.concatenate(([0.0], np.cumsum(values)[:-1]))
        last = np.searchsorted(-values, -values, side="right") - 1
        certain &= (before[last] < p - _EDGE) | ((np.arange(len(values)) == 0) & (last == 0))
    chosen = values[certain]
    return order[certain], chosen / chosen.sum() if len(chosen) else chosen


def chi_square(counts: Array, probs: Array, shuffle: np.random.Generator) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom, rare tokens merged at random until a bin expects enough draws."""
    total = int(counts.sum())
    expected = probs * total
    large = expected >= _FEWEST_EXPECTED
    rest = shuffle.permutation(np.flatnonzero(~large))
    # Each token expects less than the least, so a cut at every second multiple leaves each bin at least that.
    bins = (np.cumsum(expected[rest]) // (2 * _FEWEST_EXPECTED)).astype(np.int64)
    merged_expected = np.bincount(bins, expected[rest]) if len(rest) else np.zeros(0)
    merged_counts = np.bincount(bins, counts[rest]) if len(rest) else np.zeros(0)
    wanted = np.concatenate((expected[large], merged_expected))
    found = np.concatenate((counts[large], merged_counts)).astype(np.float64)
    # The last bin may be short; it joins the largest.
    small = wanted < _FEWEST_EXPECTED
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
