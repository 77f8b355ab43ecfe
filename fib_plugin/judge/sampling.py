"""Judges samplers: every token must be one the filters allow, and repeated draws must follow the right distribution.

A right sampler fails the distribution test once in 5000 verdicts (`FALSE_ALARM`), whatever the size of its nucleus.
What needs a whole vocabulary runs on the device of the probabilities, a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fib_plugin.judge.distribution import EDGE, FEWEST_EXPECTED, Array, certain_tokens, chi_square, quantiles, survival
from fib_plugin.judge.form import TENSOR, Form, check_form, form_of
from fib_plugin.judge.verdict import Verdict, wrong
from fib_plugin.schema import Correctness, Definition, EvaluationStatus

if TYPE_CHECKING:
    import torch

FALSE_ALARM = 2e-4
#: Two bins need as many draws; with fewer from each distribution the draws of all are tested together.
_FEWEST_DRAWS = int(2 * FEWEST_EXPECTED)
#: Rows whose draws are tested; their probabilities must be sorted, which takes milliseconds a row on a CPU.
_MOST_ROWS = 32
#: Probabilities looked at at once: about 32 MiB with all that this allocates.
_SLICE = 1 << 20
#: Distinct tokens of a row up to which a pass over the vocabulary for each is cheaper than to sort it.
_FEW = 16
_MOST_BINS = 16


def draws(
    definition: Definition,
    inputs: Sequence[Any],
    samples: Sequence[torch.Tensor],
    groups: int | None = None,
    seed: int | None = None,
) -> Verdict:
    """Judge tokens that calls on the same inputs returned, on whatever device they are.

    One call is judged by its support alone; several are tested against the distribution too.

    Args:
        definition: a sampler with an input ``probs`` and, as it has them, ``top_k`` and ``top_p``.
        inputs: the definition's inputs, in its order.
        samples: what each call returned.
        groups: the rows of the inputs repeat so many distributions; None when each row has its own.
        seed: of the choices that the test makes by chance; None takes a fresh one.
    """
    import torch

    filters = Filters.of(definition, inputs)
    rows = filters.probs.shape[0]
    wanted = _wanted_form(definition, filters)
    for sample in samples:
        verdict = check_form(definition, [form_of(sample)], [wanted])
        if verdict is not None:
            return verdict
    if not samples or not rows:
        return Verdict(EvaluationStatus.PASSED, Correctness())
    tokens = torch.stack([sample.detach().reshape(-1) for sample in samples]).cpu().numpy().astype(np.int64)
    tokens = _by_group(tokens, groups or rows)
    return judge_support(filters, tokens) or _judge_distribution(filters, tokens, len(samples), seed)


def levels(definition: Definition, inputs: Sequence[Any], sample: torch.Tensor, seed: int | None = None) -> Array:
    """Where one call's tokens lie in their own distributions, from 0 to 1: even if the sampler is right.

    Calls on different inputs, of which none has draws enough to be tested, are tested together: see `even`.
    """
    filters, random = Filters.of(definition, inputs), np.random.default_rng(seed)
    tokens = sample.detach().reshape(1, -1).cpu().numpy().astype(np.int64)
    rows = random.permutation(tokens.shape[1])[:_MOST_ROWS].tolist()
    found = [
        quantiles(tokens[:, row], *certain_tokens(filters.probs[row], *filters.limit(row)), random) for row in rows
    ]
    return np.concatenate(found) if found else np.zeros(0)


def even(drawn: Array) -> Verdict:
    """Whether ``drawn`` levels are those of right samplers; fails one once in 5000 verdicts (`FALSE_ALARM`)."""
    statistic, freedom = _unevenness(drawn, np.random.default_rng())
    return _by_chance(statistic, freedom, len(drawn))


@dataclass(frozen=True, slots=True)
class Filters:
    """The inputs of a sampler: probs [batch, vocab], and limits by row where the definition has them."""

    probs: torch.Tensor
    top_k: list[int] | None = None
    top_p: list[float] | None = None

    @classmethod
    def of(cls, definition: Definition, inputs: Sequence[Any]) -> Filters:
        values = dict(zip(definition.inputs, inputs, strict=True))

        def limits(name: str) -> list[Any] | None:
            value = values.get(name)
            if value is None:
                return None
            return list(value.reshape(-1).tolist()) if hasattr(value, "reshape") else [value]

        probs = values["probs"].detach()
        return cls(probs.reshape(-1, probs.shape[-1]), limits("top_k"), limits("top_p"))

    def limit(self, row: int) -> tuple[int, float]:
        """k and p of a row; the whole vocabulary and 1 when there is no such limit."""
        vocabulary = self.probs.shape[1]
        k = vocabulary if not self.top_k else int(self.top_k[row % len(self.top_k)])
        p = 1.0 if not self.top_p else float(self.top_p[row % len(self.top_p)])
        return (k if 0 < k < vocabulary else vocabulary), p


def judge_support(filters: Filters, tokens: Array) -> Verdict | None:
    """None when every one of ``tokens`` [draws, groups] is one that its row's filters allow."""
    vocabulary = filters.probs.shape[1]
    step = max(1, _SLICE // vocabulary)
    for start in range(0, tokens.shape[1], step):
        part = tokens[:, start : start + step]
        outside = (part < 0) | (part >= vocabulary)
        if outside.any():
            draw, row = np.argwhere(outside)[0]
            return wrong(f"row {start + row}: token {part[draw, row]} is outside the vocabulary of {vocabulary}")
        verdict = _outside_filters(filters, start, _distinct(part))
        if verdict is not None:
            return verdict
    return None


def _outside_filters(filters: Filters, start: int, tokens: Array) -> Verdict | None:
    import torch

    rows = range(start, start + tokens.shape[1])
    probs = filters.probs[start : start + tokens.shape[1]].float()
    p = torch.tensor([filters.limit(row)[1] for row in rows], dtype=torch.float64, device=probs.device)
    drawn = torch.from_numpy(tokens.T.copy()).to(probs.device)
    own, before = _standing(probs, [filters.limit(row)[0] for row in rows], drawn)
    bad = (own <= 0.0) | ((before > 0.0) & (before >= p.unsqueeze(1) + EDGE))
    if not bool(bad.any()):
        return None
    row, place = bad.nonzero()[0].tolist()
    k, top_p = filters.limit(start + row)
    token = int(drawn[row, place])
    return wrong(
        f"row {start + row}: token {token} (probability {float(probs[row, token]):.3g}, "
        f"{float(before[row, place]):.4f} of the mass before it) "
        f"is not among those that top_k={k}, top_p={top_p:.4f} leave"
    )


def _standing(probs: torch.Tensor, limits: Sequence[int], drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each token of ``drawn`` [rows, draws]: its probability, 0 when k leaves it out, and the mass before it.

    That is the mass of all likelier ones, as a share of what k leaves.
    """
    import torch

    own = probs.gather(1, drawn)
    k = torch.tensor(limits, device=probs.device).unsqueeze(1)
    limited = k < probs.shape[1]
    most = max((one for one in limits if one < probs.shape[1]), default=0)
    if not most:
        return own, _likelier(probs, own)
    largest = probs.topk(most, dim=1).values
    among = torch.arange(most, device=probs.device) < k
    mass = torch.where(among, largest, 0.0).sum(1, keepdim=True, dtype=torch.float64)
    # Ties at the edge: which of them are kept is the sampler's choice, so all are allowed.
    edge = largest.gather(1, k.clamp_max(most) - 1)
    own = torch.where(~limited | (own >= edge), own, 0.0)
    before = _before(largest, own) / mass
    if not bool(limited.all()):
        before = torch.where(limited, before, _likelier(probs, own))
    return own, before


def _likelier(probs: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The mass of all that is likelier than each of ``own`` [rows, draws], which are among ``probs``."""
    import torch

    if own.shape[1] > _FEW:
        return _before(probs.sort(dim=1, descending=True).values, own)
    masses = [torch.where(probs > one, probs, 0.0).sum(1, dtype=torch.float64) for one in own.unsqueeze(2).unbind(1)]
    return torch.stack(masses, dim=1)


def _before(ranked: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The mass of those of ``ranked``, largest first, that are larger than ``own``."""
    import torch

    places = torch.searchsorted(-ranked, -own.contiguous())
    sums = ranked.cumsum(1, dtype=torch.float64).gather(1, (places - 1).clamp_min(0))
    return torch.where(places > 0, sums, 0.0)


def _distinct(tokens: Array) -> Array:
    """The distinct tokens of each column, filled up with one of them."""
    columns = [np.unique(column) for column in tokens.T]
    most = max(len(column) for column in columns)
    return np.stack([np.pad(column, (0, most - len(column)), mode="edge") for column in columns], axis=1)


def _judge_distribution(filters: Filters, tokens: Array, calls: int, seed: int | None) -> Verdict:
    statistic, freedom = (0.0, 0) if calls == 1 else _statistic(filters, tokens, np.random.default_rng(seed))
    return _by_chance(statistic, freedom, int(tokens.size))


def _by_chance(statistic: float, freedom: int, draws: int) -> Verdict:
    chance = survival(statistic, freedom)
    correctness = Correctness(
        max_relative_error=0.0,
        max_absolute_error=0.0,
        extra={"draws": draws, "chi_square": statistic, "degrees_of_freedom": freedom, "p_value": chance},
    )
    if chance < FALSE_ALARM:
        return wrong(
            f"the draws do not follow the distribution: chi-square {statistic:.1f} at {freedom} degrees of freedom, "
            f"p = {chance:.2g} after {draws} draws (limit {FALSE_ALARM:g})",
            correctness,
        )
    return Verdict(EvaluationStatus.PASSED, correctness)


def _statistic(filters: Filters, tokens: Array, random: np.random.Generator) -> tuple[float, int]:
    rows = random.permutation(tokens.shape[1])[:_MOST_ROWS]
    statistic, freedom = 0.0, 0
    found: list[Array] = []
    for row in rows.tolist():
        certain, probs = certain_tokens(filters.probs[row], *filters.limit(row))
        if len(tokens) < _FEWEST_DRAWS:
            found.append(quantiles(tokens[:, row], certain, probs, random))
            continue
        counts = np.bincount(tokens[:, row], minlength=filters.probs.shape[1])[certain]
        part, degrees = chi_square(counts, probs, random)
        statistic, freedom = statistic + part, freedom + degrees
    return _unevenness(np.concatenate(found), random) if found else (statistic, freedom)


def _unevenness(drawn: Array, random: np.random.Generator) -> tuple[float, int]:
    bins = min(_MOST_BINS, int(len(drawn) / _FEWEST_DRAWS))
    if bins < 2:
        return 0.0, 0
    counts = np.bincount((drawn * bins).astype(np.int64).clip(0, bins - 1), minlength=bins)
    return chi_square(counts, np.full(bins, 1.0 / bins), random)


def _by_group(tokens: Array, groups: int) -> Array:
    """[calls, batch] -> [draws, groups]; a last incomplete round of the rows is left out."""
    whole = tokens.shape[1] // groups * groups
    return tokens[:, :whole].reshape(-1, groups)


def _wanted_form(definition: Definition, filters: Filters) -> Form:
    spec = next(iter(definition.outputs.values()))
    shape = (filters.probs.shape[0],) if spec.shape else ()
    return Form(TENSOR, str(spec.dtype), shape, filters.probs.device.type)
