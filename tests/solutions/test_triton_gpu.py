"""The shipped Triton kernels agree with their references on a GPU, where nothing of the interpreter helps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import solution_cases
import torch

from fib_plugin import ops
from fib_plugin.build import build
from fib_plugin.pack import find_sources
from fib_plugin.schema import Language

SOURCES = {source.name: source for source in find_sources() if source.language is Language.TRITON}
CASES = [
    (source.name, family, constants)
    for source in SOURCES.values()
    for family in source.families
    for constants in solution_cases.CONSTANTS[family]
    if not source.requires.dtypes or constants.get("dtype", "bfloat16") in source.requires.dtypes
]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(("source", "family", "constants"), CASES)
def test_agrees_with_the_reference_on_a_gpu(source: str, family: str, constants: dict[str, Any], cache: Path) -> None:
    definition = ops.ALL[family].definition(**constants)
    solution = SOURCES[source].solution_for(definition, family)
    assert solution_cases.problem_of(solution, definition, cache, device="cuda") is None


@pytest.mark.parametrize(
    ("heads", "page_size", "lengths"), [(16, 1, (3000,)), (128, 64, (2, 0, 40)), (16, 64, (9,) * 64)]
)
def test_latent_attention_is_right_at_real_sizes(
    heads: int, page_size: int, lengths: tuple[int, ...], cache: Path
) -> None:
    definition = ops.ALL["mla_paged_decode"].definition(num_qo_heads=heads, page_size=page_size)
    decode = build(SOURCES["mla_paged_triton"].solution_for(definition, "mla_paged_decode"), definition, cache).call
    with torch.device("cuda"):
        pages = sum(lengths)
        cache_rows = torch.randn(pages + 1, page_size, 576).to(torch.bfloat16)
        q = torch.randn(len(lengths), heads, 576).to(torch.bfloat16)
        indptr = torch.tensor([0, *lengths]).cumsum(0).int()
        inputs = (q[..., :512], q[..., 512:], cache_rows[..., :512], cache_rows[..., 512:], indptr)
        indices = torch.randperm(pages + 1)[:pages].int()
        got = decode(*inputs, indices, 576**-0.5)
        want = solution_cases.run_reference(definition)(*inputs, indices, 576**-0.5)
    for name, one, other in zip(("output", "lse"), got, want, strict=True):
        assert solution_cases.mismatch(definition, one, other) is None, name


@pytest.mark.parametrize("tokens", [1, 7, 64, 500])
def test_experts_are_right_at_the_sizes_of_qwen3(tokens: int, cache: Path) -> None:
    experts, hidden, inner, topk = 128, 2048, 768, 8
    definition = ops.ALL["moe"].definition(topk=topk, num_experts=experts, hidden_size=hidden, intermediate_size=inner)
    moe = build(SOURCES["moe_triton"].solution_for(definition, "moe"), definition, cache).call
    with torch.device("cuda"):
        x = torch.randn(tokens, hidden).to(torch.bfloat16)
        w13 = (torch.randn(experts, 2 * inner, hidden, dtype=torch.bfloat16)) * hidden**-0.5
        w2 = torch.randn(experts, hidden, inner, dtype=torch.bfloat16) * inner**-0.5
        weights, ids = torch.rand(tokens, experts).topk(topk)
        inputs = (x, w13, w2, weights, ids.int())
        want = solution_cases.run_reference(definition)(*inputs)
        assert solution_cases.mismatch(definition, moe(*inputs), want) is None
