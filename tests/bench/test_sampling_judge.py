"""The sampling judge: who may be drawn, how often, and how seldom it is wrong about a right sampler."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fib_plugin.bench.evaluators.sampling import (
    FALSE_ALARM,
    Filters,
    certain_tokens,
    chi_square,
    judge_draws,
    judge_support,
    survival,
)

PROBS = np.array([[0.4, 0.3, 0.2, 0.1]], np.float32)


def filters(k: int | None = None, p: float | None = None, probs: np.ndarray = PROBS) -> Filters:
    rows = len(probs)
    return Filters(probs, None if k is None else np.full(rows, k), None if p is None else np.full(rows, p, np.float32))


def allowed(limits: Filters) -> list[int]:
    return [token for token in range(-1, 6) if judge_support(limits, np.array([[token]])) is None]


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
    probs = np.array([[0.4, 0.2, 0.2, 0.2]], np.float32)
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


def test_draws_of_several_rows_are_tested_row_by_row() -> None:
    probs = np.array([[0.9, 0.1], [0.1, 0.9]], np.float32)
    random = np.random.default_rng(2)
    right = np.stack([random.choice(2, 1000, p=row) for row in ([0.9, 0.1], [0.1, 0.9])], axis=1)
    assert judge_draws(filters(probs=probs), right, 2, 0).passed
    assert not judge_draws(filters(probs=probs), right[:, ::-1], 2, 0).passed


def test_a_distribution_with_one_token_needs_no_test() -> None:
    assert judge_draws(filters(1), np.zeros((64, 1), np.int64), 1, 0).passed
    assert not judge_draws(filters(1), np.ones((64, 1), np.int64), 1, 0).passed


def test_the_chance_is_on_record() -> None:
    samples = np.random.default_rng(3).choice(4, (500, 1), p=[0.4, 0.3, 0.2, 0.1])
    correctness = judge_draws(filters(), samples, 1, 0).correctness
    assert correctness is not None
    assert correctness.extra is not None
    assert correctness.extra["draws"] == 500
    assert not math.isnan(correctness.extra["p_value"])
