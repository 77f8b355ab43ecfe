"""The elementwise judge: one sum of tolerances, a required share, and no mercy for NaN and Inf."""

from __future__ import annotations

import pytest
import torch
from bench_cases import NORM

from fib_plugin.bench.evaluators.elementwise import judge
from fib_plugin.ops import Tolerance
from fib_plugin.schema import EvaluationStatus

INF, NAN = float("inf"), float("nan")
TENTH = Tolerance(0.1, 0.1)


def passes(output: list[float], wanted: list[float], tolerance: Tolerance = TENTH) -> bool:
    return judge(NORM, [torch.tensor(output)], [torch.tensor(wanted)], tolerance).passed


@pytest.mark.parametrize(
    ("output", "wanted", "right"),
    [
        ([1.15], [1.0], True),  # within atol + rtol * 1
        ([1.25], [1.0], False),
        ([0.15], [0.0], False),  # breaks atol, whatever its relative error
        ([10.9], [10.0], True),
        ([NAN], [NAN], True),
        ([NAN], [1.0], False),
        ([1.0], [NAN], False),
        ([INF], [INF], True),
        ([-INF], [INF], False),
        ([3e38], [INF], False),
        ([-INF, 1.0], [-INF, 1.0], True),
        ([], [], True),
    ],
)
def test_tolerance(output: list[float], wanted: list[float], right: bool) -> None:
    assert passes(output, wanted) is right


def test_the_matched_ratio_allows_a_few_to_differ_but_not_more() -> None:
    wanted = [1.0] * 100
    tolerance = Tolerance(0.1, 0.0, 0.98)
    assert passes([5.0] * 2 + wanted[2:], wanted, tolerance)
    assert not passes([5.0] * 3 + wanted[3:], wanted, tolerance)


def test_the_matched_ratio_does_not_excuse_a_nan() -> None:
    wanted = [1.0] * 100
    assert not passes([NAN, *wanted[1:]], wanted, Tolerance(0.1, 0.0, 0.5))


def test_integers_must_be_equal() -> None:
    verdict = judge(NORM, [torch.tensor([2**60])], [torch.tensor([2**60 + 2048])], Tolerance(0.0, 0.0))
    assert verdict.status is EvaluationStatus.INCORRECT_NUMERICAL


def test_the_complaint_names_place_and_values() -> None:
    verdict = judge(NORM, [torch.tensor([1.0, 9.0])], [torch.tensor([1.0, 2.0])], Tolerance(0.1, 0.1))
    assert "[1] 9 expected 2" in verdict.log
    assert verdict.correctness is not None
    assert verdict.correctness.max_absolute_error == 7.0
