"""The ratio of steps with hooks at work and at rest: what hooks take is found whatever else changes meanwhile."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from bench_capture_steps import interval, ratio

STEPS = 34


def rounds(count: int, slower: float, noise: float = 0.0) -> list[list[float]]:
    """Rounds on a machine that becomes twice as slow, of steps that grow; every fiftieth is kept from its core."""
    draw, made = random.Random(1), []
    for number in range(count):
        steps = []
        for step in range(STEPS):
            live = step % 2 == (number % 2 == 0)
            seconds = (0.05 if step < 3 else 0.01) * (1 + number / count) * (1 + step / 1000)
            seconds *= (1 + slower if live else 1) * (1 + abs(draw.gauss(0, noise)))
            steps.append(seconds * (4 if noise and draw.random() < 0.02 else 1))
        made.append(steps)
    return made


@pytest.mark.parametrize("slower", [0.0, 0.005, 0.08])
def test_it_is_what_the_hooks_take_on_a_machine_that_changes(slower: float) -> None:
    assert ratio(rounds(8, slower)) == pytest.approx(1 / (1 + slower), abs=2e-5)


def test_the_interval_holds_the_ratio_and_narrows_with_more_rounds() -> None:
    few, many = (interval(rounds(count, 0.005, noise=0.05)) for count in (24, 120))
    for low, high in (few, many):
        assert low <= 1 / 1.005 <= high
    assert many[1] - many[0] < (few[1] - few[0]) / 1.5
    assert many[1] - many[0] < 0.01


def test_hooks_that_cost_five_percent_are_told_from_none() -> None:
    low, high = interval(rounds(20, 0.05, noise=0.05))
    assert high < 0.98
    low, high = interval(rounds(20, 0.0, noise=0.05))
    assert low > 0.98
