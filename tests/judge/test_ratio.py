"""The ratio of interleaved timings, and how sure it is."""

from __future__ import annotations

import numpy as np
import pytest

from fib_plugin.judge import ratio


def test_the_ratio_is_baseline_over_solution_with_a_lower_end() -> None:
    random = np.random.default_rng(0)
    drift = 1 + 0.2 * random.random(101)
    found = ratio(1000 * drift, 2000 * drift * (1 + 0.05 * random.standard_normal(101)))
    assert found.value == pytest.approx(2.0, rel=0.05)
    assert 1.85 < found.low <= found.value
    assert found.solution_ms == pytest.approx(0.0011, rel=0.05)


def test_noise_widens_the_interval() -> None:
    random = np.random.default_rng(0)
    calm, noisy = (ratio(1000 + s * random.random(51), 1000 + s * random.random(51)).low for s in (1, 900))
    assert noisy < 0.97 < calm


def test_what_using_a_solution_costs_besides_counts_on_its_side() -> None:
    free, paid = ratio([100.0] * 9, [200.0] * 9), ratio([100.0] * 9, [200.0] * 9, [100.0] * 9)
    assert (free.value, paid.value) == (2.0, 1.0)
