"""Token-major keys and values from vLLM's CPU cache, whose blocks the kernels keep in a layout of their own.

The layout depends on the instruction set. It is a permutation within one block and head, so it is learnt once, by
writing numbers through the engine's own function and looking where they went. Keys and values were two pools before
0.23, and are the halves of each block since then.
"""

from __future__ import annotations

import torch


class CpuCache:
    """Learnt layouts, by (instruction set, block size, head size, dtype)."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[str, int, int, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}

    def unpack(
        self, isa: str, kv_cache: torch.Tensor, kv_indices: torch.Tensor, head_size: int, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(keys, values, indices): the used blocks as [slots, 1, kv_heads, head_size] and the indices into them.

        kv_cache as ``halves`` takes it; kv_indices int32 names token slots of the whole pool.
        """
        heads, block_size = kv_cache.shape[-3:-1]
        used, inverse = torch.unique(kv_indices // block_size, return_inverse=True)
        indices = (inverse * block_size + kv_indices % block_size).to(torch.int32)
        layout = self._layout(isa, block_size, head_size, dtype)
        chosen = used.long()
        keys, values = (
            half[chosen]
            .reshape(len(used), heads, -1)[..., order]
            .view(len(used), heads, block_size, head_size)
            .transpose(1, 2)
            .reshape(-1, 1, heads, head_size)
            for half, order in zip(halves(kv_cache), layout, strict=True)
        )
        return keys, values, indices

    def _layout(
        self, isa: str, block_size: int, head_size: int, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        key = (isa, block_size, head_size, dtype)
        if key not in self._layouts:
            self._layouts[key] = _probe(*key)
        return self._layouts[key]


def halves(kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values, each [blocks, kv_heads, block_size, head_size], as the engine's kernels take them.

    kv_cache is [blocks, kv_heads, block_size, 2 * head_size], before 0.23 [2, blocks, kv_heads, block_size, head_size].
    """
    if kv_cache.dim() == 5:
        return kv_cache[0], kv_cache[1]
    blocks, heads, block_size, width = kv_cache.shape
    keys, values = kv_cache.view(blocks, heads, block_size * 2, width // 2).chunk(2, dim=2)
    return keys, values


def _probe(isa: str, block_size: int, head_size: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Where element ``token * head_size + d`` of a block went, for keys and for values."""
    from vllm import _custom_ops

    count = block_size * head_size
    element = torch.arange(count).view(block_size, 1, head_size)
    found = [torch.zeros(count, dtype=torch.int64) for _ in range(2)]
    # One bit at a time: bfloat16 cannot hold the element's number, but it can hold 0 and 1.
    for bit in range((count - 1).bit_length()):
        plane = ((element >> bit) & 1).to(dtype)
        block = torch.zeros(1, 1, block_size * 2, head_size, dtype=dtype)
        halves = block.chunk(2, dim=2)
        _custom_ops.cpu_attn_reshape_and_cache(
            plane, plane, *halves, torch.arange(block_size), isa, k_scale=1.0, v_scale=1.0, kv_cache_dtype="auto"
        )
        for order, half in zip(found, halves, strict=True):
            order += half.reshape(-1).to(torch.int64) << bit
    keys, values = (torch.argsort(order) for order in found)
    return keys, values
