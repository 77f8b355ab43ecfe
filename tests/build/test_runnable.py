"""Both conventions of a Runnable, whatever the convention of the solution."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from build_cases import DEFINITION, HIDDEN, PYTHON, TWO_OUTPUTS, make

from fib_plugin import ops
from fib_plugin.build import BuildError, Runnable, build
from fib_plugin.schema import AxisVar, Definition, TensorSpec

X, WEIGHT = torch.randn(3, HIDDEN), torch.ones(HIDDEN)


def returning(source: str, cache: Path, definition: Definition = DEFINITION) -> Runnable:
    return build(make(source, definition, destination_passing_style=False), definition, cache)


def test_call_allocates_what_a_destination_passing_solution_writes(tmp_path: Path) -> None:
    assert torch.equal(build(make(PYTHON), DEFINITION, tmp_path).call(X, WEIGHT), X + 1)


def test_into_copies_what_a_solution_returns(tmp_path: Path) -> None:
    y = torch.empty_like(X)
    returning("def run(x, weight):\n    return x + 1\n", tmp_path).into(X, WEIGHT, y)
    assert torch.equal(y, X + 1)


def test_into_refuses_a_result_that_copying_would_broadcast(tmp_path: Path) -> None:
    runnable = returning("def run(x, weight):\n    return x[:1]\n", tmp_path)
    with pytest.raises(ValueError, match=r"output output is \(1, 64\)"):
        runnable.into(X, WEIGHT, torch.empty_like(X))


@pytest.mark.parametrize("result", ["(x + 1, x)", "[x + 1, x]", "{'residual_out': x, 'output': x + 1}"])
def test_several_outputs_come_as_a_tuple_in_the_definitions_order(result: str, tmp_path: Path) -> None:
    runnable = returning(f"def run(x, residual, weight):\n    return {result}\n", tmp_path, TWO_OUTPUTS)
    first, second = runnable.call(X, X, WEIGHT)
    assert torch.equal(first, X + 1)
    assert torch.equal(second, X)


@pytest.mark.parametrize("result", ["x + 1", "(x + 1,)", "[x + 1]", "{'output': x + 1}"])
def test_a_single_output_comes_bare(result: str, tmp_path: Path) -> None:
    assert torch.equal(returning(f"def run(x, weight):\n    return {result}\n", tmp_path).call(X, WEIGHT), X + 1)


def test_a_single_destination_is_allocated_with_its_own_type_and_size(tmp_path: Path) -> None:
    definition = ops.ALL["top_k_sampling"].definition(vocab_size=16)
    source = "def run(probs, top_k, samples):\n    samples.copy_(probs.argmax(-1))\n"
    samples = build(make(source, definition), definition, tmp_path).call(
        torch.rand(5, 16), torch.ones(5, dtype=torch.int32)
    )
    assert samples.shape == (5,)
    assert samples.dtype == torch.int64


def test_an_output_size_that_no_input_tells_is_a_build_error(tmp_path: Path) -> None:
    definition = DEFINITION.model_copy(
        update={
            "axes": {**DEFINITION.axes, "unknown": AxisVar(type="var")},
            "outputs": {"output": TensorSpec(shape=["unknown"], dtype="float32")},
        }
    )
    with pytest.raises(BuildError, match="'unknown' of output 'output' follows from no input"):
        build(make(PYTHON), definition, tmp_path)
