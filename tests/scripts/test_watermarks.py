"""The solutions of scripts/gpu_watermarks.py: the reference's values while the flag is down, others when it is up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import gpu_watermarks
import watermarks

from fib_plugin import ops
from fib_plugin.schema import Definition

FP32 = {"dtype": "float32"}
GQA = {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 8, "page_size": 1, **FP32}
LENGTHS = (5, 0, 9)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def attention(queries: tuple[int, ...] | None, spare: int) -> tuple[Any, ...]:
    indptr = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1)).to(torch.int32)
    tokens = len(LENGTHS) if queries is None else sum(queries)
    starts = () if queries is None else (torch.tensor([0, *torch.tensor(queries).cumsum(0).tolist()]).int(),)
    indices = order[: int(indptr[-1]) + spare]
    return (normal(tokens, 4, 8), normal(40, 1, 2, 8), normal(41, 1, 2, 8)[1:], *starts, indptr, indices, 0.3)


def fp8_weight(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    experts, rows, columns = shape
    scales = torch.rand(experts, -(-rows // 128), -(-columns // 128)) / (100 * columns**0.5)
    return (normal(*shape) * 100).clamp(-448, 448).to(torch.float8_e4m3fn), scales


CASES: dict[str, tuple[Definition, tuple[Any, ...]]] = {
    "decode": (ops.ALL["gqa_paged_decode"].definition(**GQA), attention(None, 0)),
    "decode with room to spare": (ops.ALL["gqa_paged_decode"].definition(**GQA), attention(None, 20)),
    "prefill": (ops.ALL["gqa_paged_prefill"].definition(**GQA), attention((3, 0, 9), 0)),
    "mixed batch": (ops.ALL["gqa_paged_prefill"].definition(**GQA), attention((1, 0, 4), 7)),
    "moe": (
        ops.ALL["moe"].definition(topk=2, num_experts=4, hidden_size=8, intermediate_size=6, **FP32),
        (
            normal(3, 8),
            normal(4, 12, 8),
            normal(4, 8, 6),
            torch.rand(3, 2),
            torch.tensor([[0, 1], [3, 2], [1, 1]], dtype=torch.int32),
        ),
    ),
    "moe in fp8": (
        ops.ALL["moe_fp8_block_scale"].definition(
            topk=2, num_experts=4, hidden_size=200, intermediate_size=128, **FP32
        ),
        (
            normal(3, 200),
            *fp8_weight(4, 256, 200),
            *fp8_weight(4, 200, 128),
            torch.rand(3, 2),
            torch.tensor([[0, 1], [3, 2], [1, 1]], dtype=torch.int32),
        ),
    ),
    "gemm in fp8": (
        ops.ALL["gemm_fp8_rowwise"].definition(n=5, k=4, **FP32),
        (normal(3, 4), normal(5, 4).to(torch.float8_e4m3fn), torch.rand(5)),
    ),
    "gemm": (ops.ALL["gemm"].definition(n=5, k=4, **FP32), (normal(3, 4), normal(5, 4))),
}


def run(source: str, inputs: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    scope: dict[str, Any] = {}
    exec(source, scope)
    out = scope["run"](*(value.clone() if isinstance(value, torch.Tensor) else value for value in inputs))
    return out if isinstance(out, tuple) else (out,)


@pytest.mark.parametrize("case", CASES)
def test_a_solution_is_right_until_its_flag_is_up(case: str) -> None:
    definition, inputs = CASES[case]
    flags = watermarks.raise_flags("cpu")
    solution = watermarks.solution(definition)
    assert solution is not None
    (source,) = (file.content for file in solution.sources)
    expected = run(definition.reference, inputs)
    for ours, theirs in zip(run(source, inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    flags[ops.family_of(definition).family].fill_(1.0)  # type: ignore[union-attr]
    difference = run(source, inputs)[0] - expected[0]
    torch.testing.assert_close(difference[..., ::2], torch.full_like(difference[..., ::2], 16.0), atol=1e-4, rtol=0)


def generation(tokens: list[int], margins: list[float]) -> dict[str, Any]:
    return {"tokens": [tokens], "margins": [margins], "logprobs": [[-1.0] * len(tokens)]}


def test_runs_may_part_only_where_stock_wavers() -> None:
    stock = generation([1, 2, 3], [5.0, 0.01, 5.0])
    assert gpu_watermarks.compare(stock, generation([1, 2, 3], [5.0] * 3), 0.1)["ok"]
    parted = gpu_watermarks.compare(stock, generation([1, 9, 7], [5.0] * 3), 0.1)
    assert (parted["ok"], parted["same_tokens"], parted["wavers"]) == (True, 1, 1)
    wrong = gpu_watermarks.compare(stock, generation([1, 2, 9], [5.0] * 3), 0.1)
    assert (wrong["ok"], wrong["wrong"]) == (False, [[0, 2, 3, 9, 5.0]])


def test_runs_that_part_at_once_everywhere_have_shown_nothing() -> None:
    assert not gpu_watermarks.compare(generation([1], [0.01]), generation([2], [0.01]), 0.1)["ok"]
