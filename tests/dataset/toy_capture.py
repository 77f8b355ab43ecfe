"""A captured dataset without an engine: calls of every op family go through the real runtime, recorder and writer."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from fib_plugin import ops
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

ADAPTER = "toy.all"

_CONSTANTS: dict[str, dict[str, Any]] = {
    "gemm": {"n": 16, "k": 8},
    "gemm_fp8_block_scale": {"n": 16, "k": 8},
    "gemm_fp8_rowwise": {"n": 16, "k": 8},
    "gemm_fp8_tensorwise": {"n": 16, "k": 8},
    "gemm_fp8_static": {"n": 16, "k": 8},
    "rmsnorm": {"hidden_size": 16, "eps": 1e-5},
    "fused_add_rmsnorm": {"hidden_size": 16, "eps": 1e-6},
    "silu_and_mul": {"d": 8},
    "rope": {"head_dim": 8, "rotary_dim": 4, "is_neox": True},
    "gqa_paged_decode": {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 8},
    "gqa_paged_prefill": {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 8},
    "gqa_ragged_prefill": {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 8},
    "mla_paged_decode": {"num_qo_heads": 4, "head_dim_ckv": 16, "head_dim_kpe": 8},
    "moe": {"topk": 2, "num_experts": 4, "hidden_size": 8, "intermediate_size": 4},
    "moe_fp8_block_scale": {"topk": 2, "num_experts": 4, "hidden_size": 8, "intermediate_size": 4},
    "top_k_sampling": {"vocab_size": 32},
    "top_p_sampling": {"vocab_size": 32},
    "top_k_top_p_sampling": {"vocab_size": 32},
}
_PAGES, _CONTEXT = 64, 128


def definitions() -> list[Definition]:
    """One of every family; a family without constants here is an error, so that none is forgotten."""
    return [spec.definition(**_CONSTANTS[family]) for family, spec in ops.ALL.items()]


def capture(runtime: Runtime, sizes: tuple[int, ...] = (1, 2, 3, 5, 8), repeats: int = 2) -> None:
    """Every definition at every size, each call `repeats` times."""
    runtime.adapters[ADAPTER] = SimpleNamespace(  # type: ignore[assignment]
        engine=SimpleNamespace(name="toy", version=lambda: "1.0"), displaced=lambda definition: definition.reference
    )
    for definition in definitions():
        site = runtime.site(ADAPTER, definition)
        for size in sizes:
            inputs = tuple(_inputs(definition, size))
            for _ in range(repeats):
                site.attempt(size, inputs)
    assert runtime.writer.flush(30)


def _inputs(definition: Definition, size: int) -> Iterator[Any]:
    """Arguments as an engine would pass them: `size` tokens or requests."""
    kv_lengths = torch.arange(1, size + 1) * 2
    entries = int(kv_lengths.sum())
    free = {"max_seq_len": _CONTEXT, "num_pages": max(_PAGES, entries), "num_qo_heads": 4, "num_kv_heads": 2}
    free |= {"num_kv_indices": entries, "total_kv": entries, "len_indptr": size + 1}
    if "total_q" in definition.axes:
        free["total_q"] = 2 * size  # two new tokens a request
    sizes = {axis: free.get(axis, size) for axis in definition.var_axes}
    ends = torch.cat([torch.zeros(1), kv_lengths.cumsum(0)])
    special = {
        "kv_indptr": ends,
        "qo_indptr": torch.arange(size + 1) * 2,
        "kv_indices": torch.randperm(free["num_pages"])[:entries],
        "positions": torch.randint(_CONTEXT, (size,)),
        "topk_ids": torch.stack([torch.randperm(4)[:2] for _ in range(size)]),
        "topk_weights": torch.rand(size, 2).softmax(-1),
        "top_k": torch.randint(1, 32, (size,)),
        "top_p": torch.rand(size).clamp_min(0.1),
        "probs": torch.randn(size, 32).softmax(-1),
    }
    for (name, spec), shape in zip(definition.inputs.items(), definition.input_shapes(sizes), strict=True):
        if shape is None:
            yield 0.125
        else:
            value = special[name] if name in special else torch.randn(shape)
            yield value.reshape(shape).to(getattr(torch, str(spec.dtype)))
