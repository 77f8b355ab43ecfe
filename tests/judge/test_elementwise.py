"""The elementwise judge: one sum of tolerances, a required share, and no mercy for NaN and Inf."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from judge_cases import ADD_NORM, NORM
from torch.utils._python_dispatch import TorchDispatchMode

from fib_plugin import judge
from fib_plugin.judge import elementwise
from fib_plugin.ops import Tolerance
from fib_plugin.schema import EvaluationStatus

INF, NAN = float("inf"), float("nan")
TENTH = Tolerance(0.1, 0.1)


def passes(output: list[float], wanted: list[float], tolerance: Tolerance = TENTH) -> bool:
    return judge.outputs(NORM, [torch.tensor(output)], [torch.tensor(wanted)], tolerance).passed


def status(outputs: list[torch.Tensor], expected: list[torch.Tensor], fewer: bool = False) -> EvaluationStatus:
    return judge.outputs(ADD_NORM, outputs, expected, TENTH, fewer).status


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
        ([-INF, 2.0], [-INF, 1.0], False),
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
    verdict = judge.outputs(NORM, [torch.tensor([2**60])], [torch.tensor([2**60 + 2048])], Tolerance(0.0, 0.0))
    assert verdict.status is EvaluationStatus.INCORRECT_NUMERICAL


def test_the_complaint_names_place_and_values() -> None:
    verdict = judge.outputs(NORM, [torch.tensor([1.0, 9.0])], [torch.tensor([1.0, 2.0])], Tolerance(0.1, 0.1))
    assert "output output: 50.0000% of the elements match" in verdict.log
    assert "1 of 2 wrong, the first:\n  [1] 9 expected 2 (off by 7, allowed 0.3)\n" in verdict.log
    assert "allowed: atol 0.1 + rtol 0.1 * |expected|" in verdict.log
    assert verdict.correctness is not None
    assert verdict.correctness.max_absolute_error == 7.0


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "scalar"])
def test_slices_leave_nothing_out(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "_SLICE", 7)
    wanted = torch.randn(()) if layout == "scalar" else torch.randn(5, 9)
    wanted = wanted.T if layout == "transposed" else wanted
    assert judge.outputs(NORM, [wanted.clone()], [wanted], TENTH).passed
    for place in range(wanted.numel()):
        output = wanted.clone(memory_format=torch.preserve_format)
        position = [int(axis) for axis in torch.unravel_index(torch.tensor(place), wanted.shape)]
        output[tuple(position)] += 50
        verdict = judge.outputs(NORM, [output], [wanted], TENTH)
        assert not verdict.passed
        assert f"1 of {wanted.numel()} wrong, the first:\n  {position} " in verdict.log


class Allocations(TorchDispatchMode):
    """The largest storage that an operation made."""

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in self.given:
            self.largest = max(self.largest, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("transposed", [False, True])
def test_a_big_comparison_allocates_little(transposed: bool) -> None:
    output, wanted = torch.zeros(2, 4096, 1024, dtype=torch.bfloat16)
    if transposed:
        output, wanted = output.T, wanted.T
    with Allocations(output, wanted) as allocations:
        assert judge.outputs(NORM, [output], [wanted], TENTH).passed
    assert 0 < allocations.largest <= 4 << 20


def test_the_form_is_judged_before_the_numbers() -> None:
    right = torch.zeros(2, 3)
    subclass = right.as_subclass(type("Lazy", (torch.Tensor,), {}))
    assert status([right, right], [right, right]) is EvaluationStatus.PASSED
    assert status([right[:1], right], [right, right]) is EvaluationStatus.INCORRECT_SHAPE
    assert status([right.double(), right], [right, right]) is EvaluationStatus.INCORRECT_DTYPE
    assert status([subclass, right], [right, right]) is EvaluationStatus.RUNTIME_ERROR
    assert status([right.to("meta"), right], [right, right]) is EvaluationStatus.RUNTIME_ERROR
    assert status([right] * 3, [right, right]) is EvaluationStatus.RUNTIME_ERROR
    assert status([], [right, right]) is EvaluationStatus.RUNTIME_ERROR


def test_outputs_that_nothing_right_is_known_of_are_not_compared() -> None:
    right, wrong = torch.zeros(2, 3), torch.ones(2, 3)
    assert status([right, wrong], [right]) is EvaluationStatus.PASSED
    assert status([wrong, right], [right]) is EvaluationStatus.INCORRECT_NUMERICAL


def test_only_who_may_return_fewer_values_does() -> None:
    right = torch.zeros(2, 3)
    assert status([right], [right, right]) is EvaluationStatus.RUNTIME_ERROR
    assert status([right], [right, right], fewer=True) is EvaluationStatus.PASSED
