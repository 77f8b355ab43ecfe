"""Live norms and activations: the shapes they come in are the shapes that go out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import proven
import pytest
import torch
import torch.nn.functional as F
from fib_plugin.adapters.live.activation import LiveActivation
from fib_plugin.adapters.live.norm import LiveNorm
from live_calls import FP32, ROWS, SHAPES, Make, normal, shapes
from proven import MARK

from fib_plugin import ops

# ---- norms -------------------------------------------------------------------------------------------------------

EPS = 1e-5
NORM = ops.ALL["rmsnorm"].definition(hidden_size=4, eps=EPS, **FP32)
ADD_NORM = ops.ALL["fused_add_rmsnorm"].definition(hidden_size=4, eps=EPS, **FP32)


@SHAPES
def test_rmsnorm_keeps_the_shape_of_its_input(proven_runtime: Any, shape: str) -> None:
    x, weight = shapes(4)[shape], normal(4)
    out = LiveNorm(proven_runtime(NORM), "toy.norm").rmsnorm(x, weight, EPS)
    torch.testing.assert_close(out, F.rms_norm(x, (4,), weight, EPS) + MARK)


@SHAPES
def test_fused_add_rmsnorm_keeps_the_shape_of_its_inputs(proven_runtime: Any, shape: str) -> None:
    x, residual, weight = shapes(4)[shape], shapes(4)[shape] * 2, normal(4)
    out, added = LiveNorm(proven_runtime(ADD_NORM), "toy.norm").fused_add_rmsnorm(x, residual, weight, EPS)
    torch.testing.assert_close(added, x + residual)
    torch.testing.assert_close(out, F.rms_norm(x + residual, (4,), weight, EPS) + MARK)


@SHAPES
def test_a_definition_that_leaves_the_sum_out_gets_it_added(make_runtime: Make, dataset: Path, shape: str) -> None:
    single = ADD_NORM.model_copy(update={"outputs": {"output": ADD_NORM.outputs["output"]}, "name": "theirs"})
    after = f"\n_both = run\n\n\ndef run(*inputs):\n    return _both(*inputs)[0] + {MARK}\n"
    proven.prove(dataset, single, proven.solution(single, after=after), sizes=(ROWS,))
    x, residual, weight = shapes(4)[shape], shapes(4)[shape] * 2, normal(4)
    out, added = LiveNorm(make_runtime(), "toy.norm").fused_add_rmsnorm(x, residual, weight, EPS)  # type: ignore[misc]
    torch.testing.assert_close(added, x + residual)
    torch.testing.assert_close(out, F.rms_norm(x + residual, (4,), weight, EPS) + MARK)


def test_the_inputs_of_a_norm_are_left_alone(proven_runtime: Any) -> None:
    x, residual = normal(ROWS, 4), normal(ROWS, 4)
    kept = x.clone(), residual.clone()
    LiveNorm(proven_runtime(ADD_NORM), "toy.norm").fused_add_rmsnorm(x, residual, normal(4), EPS)
    assert torch.equal(x, kept[0])
    assert torch.equal(residual, kept[1])


def test_a_norm_with_another_eps_is_another_op_although_its_weight_is_the_same(proven_runtime: Any) -> None:
    live, x, weight = LiveNorm(proven_runtime(NORM), "toy.norm"), normal(ROWS, 4), normal(4)
    assert live.rmsnorm(x, weight, EPS) is not None
    assert live.rmsnorm(x, weight, 0.5) is None


def test_a_norm_of_another_dtype_is_another_op_although_its_weight_is_the_same(proven_runtime: Any) -> None:
    live, x, weight = LiveNorm(proven_runtime(NORM), "toy.norm"), normal(ROWS, 4), normal(4)
    assert live.rmsnorm(x, weight, EPS) is not None
    assert live.rmsnorm(x.bfloat16(), weight, EPS) is None


def test_a_norms_weight_is_known_by_the_layers_own_object_and_reaches_solutions_as_a_plain_tensor(
    proven_runtime: Any,
) -> None:
    runtime = proven_runtime(NORM)
    live, x, weight = LiveNorm(runtime, "toy.norm"), normal(ROWS, 4), torch.nn.Parameter(normal(4))
    live.rmsnorm(x, weight.data, EPS)  # as a compiled graph may have called it before
    asked: list[Any] = []
    (site,) = runtime.sites
    attempt = type(site).attempt
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(site), "attempt", lambda self, key, inputs: asked.append(inputs[1]) or attempt(self, key, inputs)
        )
        for _ in range(2):
            live.rmsnorm(x, weight, EPS)
    assert [type(each) for each in asked] == [torch.Tensor] * 2
    assert {each.data_ptr() for each in asked} == {weight.data_ptr()}
    assert asked[1] is asked[0]


def test_a_norm_wins_only_for_what_is_proven(proven_runtime: Any) -> None:
    live = LiveNorm(proven_runtime(NORM), "toy.norm")
    assert live.wins("rmsnorm", 4, EPS, torch.float32)
    assert not live.wins("rmsnorm", 4, 1e-6, torch.float32)
    assert not live.wins("fused_add_rmsnorm", 4, EPS, torch.float32)
    assert not live.wins("rmsnorm", 4, EPS, torch.float64)


# ---- activation --------------------------------------------------------------------------------------------------


@SHAPES
def test_silu_and_mul_halves_the_last_dimension_and_keeps_the_others(proven_runtime: Any, shape: str) -> None:
    x = shapes(8)[shape]
    out = LiveActivation(proven_runtime(proven.silu(4)), "toy.act").silu_and_mul(x)
    torch.testing.assert_close(out, F.silu(x[..., :4]) * x[..., 4:] + MARK)
