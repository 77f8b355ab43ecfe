"""References of the fp8 families, held against arithmetic written independently of them, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fib_plugin import judge, ops
from fib_plugin.schema import Definition

FP8 = torch.float8_e4m3fn
M, N, K = 7, 200, 300


def run_of(definition: Definition) -> Callable[..., torch.Tensor]:
    scope: dict[str, Any] = {}
    exec(definition.reference, scope)
    return scope["run"]  # type: ignore[no-any-return]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def weight(seed: int = 1) -> torch.Tensor:
    return normal(N, K, seed=seed, scale=100.0).clamp(-448, 448).to(FP8)


def nearest(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x rounded to multiples of fp8 numbers: by a table of all of them, not by a cast."""
    table = torch.arange(256, dtype=torch.uint8).view(FP8).double()
    table = table[table.isfinite()].unique()
    wanted = (x.double() / scale.double()).clamp(-448, 448)
    return table[(wanted.unsqueeze(-1) - table).abs().argmin(-1)] * scale.double()


def near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    # A tie between two fp8 numbers may be broken either way: few elements, never far off.
    assert found.shape == wanted.shape
    assert float((found.double() - wanted).abs().max()) < 0.05 * float(wanted.std())
    assert float(((found.double() - wanted).abs() < 1e-3 * wanted.std()).double().mean()) > 0.98


def by_blocks(scales: torch.Tensor) -> torch.Tensor:
    rows, columns = torch.arange(N) // 128, torch.arange(K) // 128
    return scales[rows][:, columns].double()


@pytest.mark.parametrize("ue8m0", [False, True])
def test_block_scale_rounds_groups_of_128_and_the_shorter_last_one(ue8m0: bool) -> None:
    run = run_of(ops.ALL["gemm_fp8_block_scale"].definition(n=N, k=K, dtype="float32", ue8m0=ue8m0))
    a, b, scales = normal(M, K), weight(), torch.rand(2, 3) * 1e-3 + 1e-4
    rounded = []
    for group in a.split(128, dim=-1):
        scale = group.abs().amax(-1, keepdim=True) / 448
        rounded.append(nearest(group, 2.0 ** scale.log2().ceil() if ue8m0 else scale))
    near(run(a, b, scales), torch.cat(rounded, dim=-1) @ (b.double() * by_blocks(scales)).T)


def test_rowwise_rounds_each_row_by_its_largest() -> None:
    run = run_of(ops.ALL["gemm_fp8_rowwise"].definition(n=N, k=K, dtype="float32"))
    a, b, scales = normal(M, K) * 10.0 ** torch.arange(-3, M - 3)[:, None], weight(), torch.rand(N) * 1e-3
    wanted = nearest(a, a.abs().amax(-1, keepdim=True) / 448) @ (b.double() * scales[:, None]).T
    for row in range(M):
        near(run(a, b, scales)[row], wanted[row])


def test_tensorwise_rounds_all_by_the_largest() -> None:
    run = run_of(ops.ALL["gemm_fp8_tensorwise"].definition(n=N, k=K, dtype="float32"))
    a, b, scale = normal(M, K), weight(), torch.tensor([3e-4])
    near(run(a, b, scale), nearest(a, a.abs().amax() / 448) @ (b.double() * scale).T)


def test_static_cuts_off_what_is_larger_than_the_given_scale_allows() -> None:
    run = run_of(ops.ALL["gemm_fp8_static"].definition(n=N, k=K, dtype="float32"))
    a, b, scales = normal(M, K), weight(), torch.rand(N) * 1e-3
    small = torch.tensor([1.0 / 448])
    near(run(a, small, b, scales), nearest(a.clamp(-1, 1), small) @ (b.double() * scales[:, None]).T)


@pytest.mark.parametrize("kind", ["block_scale", "rowwise", "tensorwise", "static"])
def test_rows_of_zeros_and_no_rows_are_no_error(kind: str) -> None:
    definition = ops.ALL[f"gemm_fp8_{kind}"].definition(n=N, k=K)
    shapes = definition.input_shapes({"M": 2})
    inputs = [torch.ones(shape or ()) for shape in shapes]
    b = list(definition.inputs).index("B")
    inputs[0], inputs[b] = torch.zeros(2, K, dtype=torch.bfloat16), weight()
    assert run_of(definition)(*inputs).eq(0).all()
    assert run_of(definition)(inputs[0][:0], *inputs[1:]).shape == (0, N)


def block_case() -> tuple[Definition, torch.Tensor, torch.Tensor, torch.Tensor]:
    definition = ops.ALL["gemm_fp8_block_scale"].definition(n=N, k=K)
    scales = (torch.rand(2, 3, generator=torch.Generator().manual_seed(3)) + 0.6) / (100 * K**0.5)
    return definition, normal(64, K).bfloat16(), weight(), scales


def passes(definition: Definition, out: torch.Tensor, wanted: torch.Tensor) -> bool:
    return judge.outputs(definition, [out.to(wanted.dtype)], [wanted], ops.tolerance(definition)).passed


def test_the_tolerance_lets_pass_who_rounds_less_or_shares_scales_otherwise() -> None:
    definition, a, b, scales = block_case()
    right, full = run_of(definition)(a, b, scales), (b.double() * by_blocks(scales)).T
    powers = ops.ALL["gemm_fp8_block_scale"].definition(n=N, k=K, ue8m0=True)
    assert passes(definition, a.double() @ full, right)
    assert passes(definition, run_of(powers)(a, b, scales), right)
    assert passes(definition, nearest(a, a.float().abs().amax(-1, keepdim=True) / 448) @ full, right)


def test_the_tolerance_stops_who_drops_a_further_bit() -> None:
    definition, a, b, scales = block_case()
    right, full = run_of(definition)(a, b, scales), (b.double() * by_blocks(scales)).T
    assert not passes(definition, a.to(torch.float8_e5m2).double() @ full, right)


def test_the_tolerance_stops_who_mixes_up_the_scales() -> None:
    definition, a, b, scales = block_case()
    right = run_of(definition)(a, b, scales)
    assert not passes(definition, a.double() @ (b.double() * by_blocks(scales.flip(1))).T, right)
    assert not passes(definition, a.double() @ (b.double() * scales.double().mean()).T, right)


# ---- experts --------------------------------------------------------------------------------------------------------

TOKENS, TOPK, EXPERTS, HIDDEN, INNER = 24, 2, 4, 300, 256


def moe_case() -> tuple[Definition, list[torch.Tensor]]:
    definition = ops.ALL["moe_fp8_block_scale"].definition(
        topk=TOPK, num_experts=EXPERTS, hidden_size=HIDDEN, intermediate_size=INNER, dtype="float32"
    )
    made = torch.Generator().manual_seed(5)
    inputs = [normal(TOKENS, HIDDEN)]
    for rows, columns in ((2 * INNER, HIDDEN), (HIDDEN, INNER)):
        inputs.append((torch.randn(EXPERTS, rows, columns, generator=made) * 100).clamp(-448, 448).to(FP8))
        blocks = EXPERTS, -(-rows // 128), -(-columns // 128)
        inputs.append((torch.rand(*blocks, generator=made) + 0.6) / (100 * columns**0.5))
    weights = torch.randn(TOKENS, TOPK, generator=made).softmax(-1)
    ids = torch.rand(TOKENS, EXPERTS, generator=made).topk(TOPK).indices.int()
    return definition, [*inputs, weights, ids]


def experts(inputs: list[torch.Tensor], rounding: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The formula, a token and an expert at a time, in double precision."""
    x, w13, s13, w2, s2, weights, ids = inputs

    def full(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        rows, columns = torch.arange(weight.shape[0]) // 128, torch.arange(weight.shape[1]) // 128
        return weight.double() * scales[rows][:, columns].double()

    out = torch.zeros(TOKENS, HIDDEN, dtype=torch.float64)
    for token in range(TOKENS):
        for weight, expert in zip(weights[token].double(), ids[token].tolist(), strict=True):
            both = full(w13[expert], s13[expert]) @ rounding(x[token]).double()
            act = torch.nn.functional.silu(both[:INNER]) * both[INNER:]
            out[token] += weight * (full(w2[expert], s2[expert]) @ rounding(act).double())
    return out


def in_groups(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([nearest(group, group.abs().amax() / 448) for group in x.split(128)])


def test_experts_round_what_goes_into_both_products() -> None:
    definition, inputs = moe_case()
    near(run_of(definition)(*inputs), experts(inputs, in_groups))


def test_the_tolerance_of_experts_stops_the_same_mistakes() -> None:
    definition, inputs = moe_case()
    half = ops.ALL["moe_fp8_block_scale"].definition(
        topk=TOPK, num_experts=EXPERTS, hidden_size=HIDDEN, intermediate_size=INNER
    )
    right = run_of(definition)(*inputs).bfloat16()
    assert passes(half, experts(inputs, lambda x: x), right)
    assert not passes(half, experts(inputs, lambda x: x.to(torch.float8_e5m2)), right)
    mixed = [*inputs[:2], inputs[2].flip(1), *inputs[3:]]
    assert not passes(half, experts(mixed, in_groups), right)
    swapped = [*inputs[:5], inputs[5].flip(1), inputs[6]]
    assert not passes(half, experts(swapped, in_groups), right)
