"""The sampling judge: who may be drawn, how often, and how seldom it is wrong about a right sampler."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from judge_cases import sampler

from fib_plugin import judge
from fib_plugin.judge import Verdict
from fib_plugin.judge.distribution import certain_tokens, chi_square, quantiles, survival
from fib_plugin.judge.sampling import FALSE_ALARM, Filters, judge_support
from fib_plugin.schema import EvaluationStatus

PROBS = torch.tensor([[0.4, 0.3, 0.2, 0.1]])


def filters(k: int | None = None, p: float | None = None, probs: torch.Tensor = PROBS) -> Filters:
    rows = len(probs)
    return Filters(probs, None if k is None else [k] * rows, None if p is None else [p] * rows)


def allowed(limits: Filters) -> list[int]:
    return [token for token in range(-1, 6) if judge_support(limits, np.array([[token]])) is None]


def judged(probs: torch.Tensor, samples: torch.Tensor, k: int | None = None, groups: int | None = None) -> Verdict:
    """Verdict on ``samples`` [calls, batch] of a top-k sampler; k = 0 keeps the whole vocabulary."""
    definition = sampler("top_k_sampling", probs.shape[1])
    top_k = torch.full((len(probs),), k or 0, dtype=torch.int32)
    return judge.draws(definition, [probs, top_k], list(samples), groups, seed=0)


def skewed(rows: int, vocab: int, seed: int = 0) -> torch.Tensor:
    """Different rows, from flat to sharp."""
    random = torch.Generator().manual_seed(seed)
    sharpness = torch.linspace(0.5, 3.0, rows).unsqueeze(1)
    return (torch.randn(rows, vocab, generator=random) * sharpness).softmax(dim=-1)


def drawn(probs: torch.Tensor, calls: int, seed: int = 1) -> torch.Tensor:
    """Tokens [calls, batch] of a right sampler."""
    return probs.multinomial(calls, replacement=True, generator=torch.Generator().manual_seed(seed)).T.contiguous()


@pytest.mark.parametrize(
    ("k", "p", "tokens"),
    [
        (None, None, [0, 1, 2, 3]),
        (2, None, [0, 1]),
        (0, None, [0, 1, 2, 3]),  # 0 switches the filter off
        (None, 0.5, [0, 1]),  # the token that crosses p is in
        (None, 0.01, [0]),
        (None, 1.0, [0, 1, 2, 3]),
        (3, 0.5, [0, 1]),  # 0.4 / 0.9 = 0.44 < 0.5: p counts on what k leaves
        (2, 0.55, [0]),  # 0.4 / 0.7 = 0.57 >= 0.55
    ],
)
def test_support(k: int | None, p: float | None, tokens: list[int]) -> None:
    assert allowed(filters(k, p)) == tokens


def test_ties_at_the_edge_of_k_may_all_be_drawn_but_none_must_be() -> None:
    probs = torch.tensor([[0.4, 0.2, 0.2, 0.2]])
    assert allowed(filters(2, probs=probs)) == [0, 1, 2, 3]
    assert certain_tokens(probs[0], 2, 1.0)[0].tolist() == [0]


@pytest.mark.parametrize(("statistic", "freedom", "chance"), [(3.841, 1, 0.05), (5.991, 2, 0.05), (124.342, 100, 0.05)])
def test_survival_agrees_with_the_tables(statistic: float, freedom: int, chance: float) -> None:
    assert survival(statistic, freedom) == pytest.approx(chance, rel=1e-3)


def test_survival_is_finite_for_thousands_of_degrees() -> None:
    assert 0.4 < survival(5000.0, 5000) < 0.6
    assert survival(1e6, 5000) == 0.0


@pytest.mark.parametrize("draws", [64, 512, 4096])
@pytest.mark.parametrize("support", [2, 7, 60, 3000])
@pytest.mark.parametrize("sharpness", [0.0, 2.0])
def test_a_right_sampler_is_refused_less_than_once_in_a_thousand(draws: int, support: int, sharpness: float) -> None:
    random = np.random.default_rng(draws + support)
    weights = np.exp(random.normal(size=support) * sharpness)
    probs = weights / weights.sum()
    trials = 3000
    alarms = 0
    for counts in random.multinomial(draws, probs, trials):
        alarms += survival(*chi_square(counts, probs, random)) < FALSE_ALARM
    # At a rate of 1e-3 three alarms are expected here; more than nine come once in a thousand runs.
    assert alarms <= 9
    assert FALSE_ALARM <= 1e-3


@pytest.mark.parametrize("support", [2, 60, 3000])
def test_a_sampler_that_prefers_the_top_is_found(support: int) -> None:
    random = np.random.default_rng(1)
    weights = np.exp(random.normal(size=support))
    probs = weights / weights.sum()
    sharper = probs**1.5 / (probs**1.5).sum()
    statistic, freedom = chi_square(random.multinomial(2048, sharper), probs, random)
    assert survival(statistic, freedom) < FALSE_ALARM


def test_each_row_has_limits_of_its_own() -> None:
    probs = PROBS.repeat(3, 1)
    limits = Filters(probs, [1, 0, 3], [1.0, 0.35, 1.0])
    assert judge_support(limits, np.array([[0, 0, 2]])) is None
    for row, token in ((0, 1), (1, 1), (2, 3)):
        tokens = np.array([[0, 0, 0]])
        tokens[0, row] = token
        refused = judge_support(limits, tokens)
        assert refused is not None
        assert refused.log.startswith(f"row {row}: token {token} ")


def test_a_row_without_top_k_beside_one_with_it_keeps_its_whole_vocabulary() -> None:
    limits = Filters(PROBS.repeat(2, 1), [2, 0], [1.0, 0.95])
    assert judge_support(limits, np.array([[0, 3]])) is None
    assert judge_support(Filters(PROBS.repeat(2, 1), [2, 0], [1.0, 0.85]), np.array([[0, 3]])) is not None


def test_a_forbidden_token_is_found_in_whatever_slice_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fib_plugin.judge.sampling._SLICE", 8)
    probs = torch.stack([PROBS[0].roll(row) for row in range(7)])
    right = probs.argmax(1).numpy()
    for row in range(7):
        tokens = np.stack([right, right])
        tokens[1, row] = worst = int(probs[row].argmin())
        refused = judge_support(filters(2, probs=probs), tokens)
        assert refused is not None
        assert refused.log.startswith(f"row {row}: token {worst} ")


@pytest.mark.parametrize("few", [0, 16])
def test_the_support_is_the_same_however_the_mass_before_a_token_is_found(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fib_plugin.judge.sampling._FEW", few)
    probs = torch.tensor([[0.15, 0.05, 0.3, 0.15, 0.05, 0.3]])
    assert allowed(filters(None, 0.25, probs)) == [2, 5]
    assert allowed(filters(None, 0.65, probs)) == [0, 2, 3, 5]
    assert allowed(filters(3, 0.7, probs)) == [2, 5]
    assert allowed(filters(3, 0.9, probs)) == [0, 2, 3, 5]


def test_draws_of_several_rows_are_tested_row_by_row() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    right = drawn(probs, 1000)
    assert judged(probs, right).passed
    assert not judged(probs, right.flip(1)).passed


def test_rows_that_repeat_a_distribution_are_tested_together() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(50, 1)
    right = drawn(probs, 20)
    assert judged(probs, right, groups=2).passed
    verdict = judged(probs, right.flip(1), groups=2)
    assert not verdict.passed
    assert verdict.correctness is not None
    assert (verdict.correctness.extra or {})["draws"] == 2000


def test_a_distribution_with_one_token_needs_no_test() -> None:
    assert judged(PROBS, torch.zeros(64, 1, dtype=torch.int64), k=1).passed
    assert not judged(PROBS, torch.ones(64, 1, dtype=torch.int64), k=1).passed


def test_a_single_call_is_judged_by_its_support_alone() -> None:
    probs = skewed(128, 64)
    assert judged(probs, probs.argmax(1).unsqueeze(0)).passed
    assert not judged(probs, probs.argmin(1).unsqueeze(0), k=8).passed


@pytest.mark.parametrize("calls", [2, 9])
def test_few_draws_from_each_of_many_rows_are_tested_together(calls: int) -> None:
    probs = skewed(128, 300)
    assert judged(probs, drawn(probs, calls)).passed
    greedy = judged(probs, probs.argmax(1).repeat(calls, 1))
    assert "do not follow the distribution" in greedy.log
    sharper = probs**3 / (probs**3).sum(1, keepdim=True)
    assert not judged(probs, drawn(sharper, calls)).passed


def test_few_draws_of_right_samplers_are_refused_no_more_often_than_many() -> None:
    alarms = sum(not judged(skewed(24, 50, turn), drawn(skewed(24, 50, turn), 4, turn)).passed for turn in range(1000))
    # 0.2 alarms are expected; more than three come less than once in ten thousand runs.
    assert alarms <= 3


def test_quantiles_of_a_right_sampler_are_even() -> None:
    random = np.random.default_rng(5)
    tokens, probs = certain_tokens(torch.tensor([0.1, 0.5, 0.0, 0.4]), 4, 1.0)
    found = quantiles(random.choice(4, 20_000, p=[0.1, 0.5, 0.0, 0.4]), tokens, probs, random)
    counts = np.bincount((found * 10).astype(int), minlength=10)
    assert survival(*chi_square(counts, np.full(10, 0.1), random)) > 1e-4
    assert len(quantiles(np.array([2]), tokens, probs, random)) == 0


def test_the_form_of_every_sample_is_judged() -> None:
    right = torch.zeros(2, 1, dtype=torch.int64)
    definition, inputs = sampler("top_k_sampling", 4), [PROBS, torch.zeros(1, dtype=torch.int32)]
    assert judge.draws(definition, inputs, list(right)).passed
    for odd, status in (
        (torch.zeros(1, dtype=torch.int32), EvaluationStatus.INCORRECT_DTYPE),
        (torch.zeros(2, dtype=torch.int64), EvaluationStatus.INCORRECT_SHAPE),
        (torch.zeros(1, 1, dtype=torch.int64), EvaluationStatus.INCORRECT_SHAPE),
        (0, EvaluationStatus.RUNTIME_ERROR),
    ):
        assert judge.draws(definition, inputs, [right[0], odd]).status is status


def test_a_batch_of_no_rows_is_right() -> None:
    assert judged(torch.rand(0, 8), torch.zeros(3, 0, dtype=torch.int64)).passed


def test_half_precision_probabilities_and_single_numbers_as_limits_are_understood() -> None:
    definition = sampler("top_k_top_p_sampling", 4)
    samples = list(torch.zeros(60, 1, dtype=torch.int64))
    assert judge.draws(definition, [PROBS.bfloat16(), 1, 0.9], samples).passed
    assert not judge.draws(definition, [PROBS.bfloat16(), 0, torch.tensor(0.9).bfloat16()], samples).passed


def test_the_chance_is_on_record() -> None:
    correctness = judged(PROBS, drawn(PROBS, 500)).correctness
    assert correctness is not None
    assert correctness.extra is not None
    assert correctness.extra["draws"] == 500
    assert not math.isnan(correctness.extra["p_value"])


def _timed_calls(pick: Callable[[torch.Tensor], torch.Tensor], calls: int = 60, rows: int = 4) -> Verdict:
    """Verdict on one draw each from many different distributions, as timed calls give them."""
    definition, found = sampler("top_k_sampling", 64), []
    for call in range(calls):
        probs = skewed(rows, 64, seed=call)
        inputs = [probs, torch.zeros(rows, dtype=torch.int32)]
        found.append(judge.levels(definition, inputs, pick(probs), seed=call))
    return judge.even(np.concatenate(found))


def test_single_draws_from_many_distributions_are_tested_together() -> None:
    assert _timed_calls(lambda probs: torch.multinomial(probs, 1).squeeze(-1)).passed
    assert not _timed_calls(lambda probs: probs.argmax(-1)).passed


def test_right_samplers_are_refused_no_more_often_when_single_draws_are_tested_together() -> None:
    random = np.random.default_rng(5)
    alarms = sum(not judge.even(random.random(240)).passed for _ in range(2000))
    assert alarms <= 7  # two are expected at 1e-3, and the limit is a fifth of that
