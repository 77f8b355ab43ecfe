"""vLLM's rotation as an op in a graph: the engine's kernel answers on copies, for the graph's tensors must stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import proven
import pytest
import torch
from proven import MARK

from fib_plugin import ops

pytest.importorskip("vllm")

TOKENS, HEADS, KV, DIM = 5, 4, 2, 16
DEFINITION = ops.ALL["rope"].definition(head_dim=DIM, rotary_dim=DIM, is_neox=True, dtype="float32")


def inputs() -> tuple[Any, ...]:
    """(positions, query, key, cache, head_size, is_neox); query and key are parts of one product, as in a model."""
    product = torch.randn(TOKENS, (HEADS + 2 * KV) * DIM, generator=torch.Generator().manual_seed(0))
    query, key, _ = product.split((HEADS * DIM, KV * DIM, KV * DIM), dim=-1)
    angles = torch.arange(32)[:, None] / 10.0 ** torch.arange(DIM // 2)
    return torch.arange(TOKENS) * 3, query, key, torch.cat((angles.cos(), angles.sin()), -1), DIM, True


def expected() -> list[torch.Tensor]:
    positions, query, key, cache, *_ = inputs()
    scope: dict[str, Any] = {}
    exec(DEFINITION.reference, scope)
    heads = (each.reshape(TOKENS, -1, DIM) for each in (query, key))
    return [each.reshape(TOKENS, -1) for each in scope["run"](*heads, cache, positions)]


@pytest.mark.parametrize("proved", [False, True])
def test_the_ops_result_is_new_whoever_answers(make_runtime: Callable[..., Any], dataset: Any, proved: bool) -> None:
    from fib_plugin.adapters.vllm.rope import Rope

    if proved:
        proven.prove(dataset, DEFINITION, sizes=(TOKENS,))
    given = inputs()
    before = [given[1].clone(), given[2].clone()]
    query, key = Rope(make_runtime()).op.body(*given)
    torch.testing.assert_close(query, expected()[0] + (MARK if proved else 0), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(key, expected()[1], atol=1e-4, rtol=1e-5)
    assert query.is_contiguous()
    assert all(map(torch.equal, given[1:3], before))


def test_an_observer_counts_the_call_until_the_adapter_is_out(make_runtime: Callable[..., Any]) -> None:
    from fib_plugin.adapters.vllm.rope import Rope

    runtime = make_runtime(tracing=True)
    adapter = Rope(runtime)
    for adapter.live in (True, False):
        adapter._look(*inputs())
    (site,) = runtime.sites
    assert [entry.calls for entry in site.all_entries()] == [1]
