"""Tokens in the order of their experts, for grouped products over (token, slot) pairs.

Blocks of rows never span two experts; how many there are is bounded by shapes alone, so nothing is read back to the
host. Each token's rows are added up at the end, without atomics, so that the result is the same each time.
"""

import torch
import triton
import triton.language as tl

#: Tiles that keep a device of about 132 processors reading.
BUSY = 264


@triton.jit
def _route(
    ids_ptr, order_ptr, expert_ptr, start_ptr, end_ptr, pairs, experts, blocks,
    BLOCK_M: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Program e places expert e's pairs, in order, and its blocks of rows; the last one marks the blocks too many.

    An id that is no expert's is nobody's pair; it is counted in the last bin, which no expert has.
    """
    mine = tl.program_id(0)
    each = tl.arange(0, BINS)
    counts = tl.zeros((BINS,), dtype=tl.int32)
    for begin in range(0, pairs, CHUNK):
        i = begin + tl.arange(0, CHUNK)
        ids = tl.load(ids_ptr + i, mask=i < pairs, other=-1)
        counts += tl.histogram(tl.where((ids >= 0) & (ids < experts), ids, BINS - 1), BINS)
    counts = tl.where(each < experts, counts, 0)
    tiles = (counts + BLOCK_M - 1) // BLOCK_M
    first = tl.sum(tl.where(each < mine, tiles, 0), axis=0)
    if mine == experts:
        for begin in range(first, blocks, CHUNK):
            j = begin + tl.arange(0, CHUNK)
            tl.store(expert_ptr + j, tl.zeros((CHUNK,), dtype=tl.int32) + experts, mask=j < blocks)
    else:
        start = tl.sum(tl.where(each < mine, counts, 0), axis=0)
        end = start + tl.sum(tl.where(each == mine, counts, 0), axis=0)
        for begin in range(start, end, BLOCK_M):
            at = first + (begin - start) // BLOCK_M
            tl.store(expert_ptr + at, mine)
            tl.store(start_ptr + at, begin)
            tl.store(end_ptr + at, end)
        for begin in range(0, pairs, CHUNK):
            i = begin + tl.arange(0, CHUNK)
            hit = tl.load(ids_ptr + i, mask=i < pairs, other=-1) == mine
            place = start + tl.cumsum(hit.to(tl.int32), axis=0) - 1
            tl.store(order_ptr + place, i, mask=hit)
            start += tl.sum(hit.to(tl.int32), axis=0)


@triton.jit
def rows_of(block, order_ptr, start_ptr, end_ptr, BLOCK_M: tl.constexpr):
    """Places in the order of a block's rows, which of them are its expert's, and their pairs: each [BLOCK_M]."""
    m = tl.load(start_ptr + block) + tl.arange(0, BLOCK_M)
    here = m < tl.load(end_ptr + block)
    return m, here, tl.load(order_ptr + m, mask=here, other=0)


@triton.jit
def store_acts(act_ptr, gate, up, m, n, here, inner):
    """Write silu(gate) * up, both [BLOCK_M, BLOCK_N] in float32, into acts [pairs, inner], in the experts' order."""
    act = gate * tl.sigmoid(gate) * up
    out = act_ptr + m[:, None].to(tl.int64) * inner + n[None, :]
    tl.store(out, act.to(act_ptr.dtype.element_ty), mask=here[:, None] & (n[None, :] < inner))


@triton.jit
def store_parts(part_ptr, weight_ptr, total, slot, n, here, H):
    """Write total [BLOCK_M, BLOCK_N], weighted, into parts [pairs, H], in the order of tokens."""
    total *= tl.load(weight_ptr + slot, mask=here, other=0.0)[:, None]
    tl.store(part_ptr + slot[:, None] * H + n[None, :], total, mask=here[:, None] & (n[None, :] < H))


@triton.jit
def _add(part_ptr, ids_ptr, out_ptr, topk, H, out_step, experts, BLOCK: tl.constexpr):
    """Program (t, b) adds up block b of the rows that token t's experts left."""
    token = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for slot in range(topk):
        expert = tl.load(ids_ptr + token * topk + slot)
        known = (expert >= 0) & (expert < experts)
        total += tl.load(part_ptr + (token * topk + slot) * H + i, mask=(i < H) & known, other=0.0)
    tl.store(out_ptr + token * out_step + i, total.to(out_ptr.dtype.element_ty), mask=i < H)


class Routing:
    """The blocks of topk_ids [tokens, topk], integers: an id outside [0, experts) is nobody's and adds nothing.

    Attributes:
        tables: order [pairs] and, for each block, its expert and its rows' begin and end in that order, int32.
        block_m: rows of a block.
        blocks: how many there may be; those too many have ``experts`` for an expert.
    """

    def __init__(self, topk_ids: torch.Tensor, experts: int) -> None:
        self._ids, self._experts = topk_ids.contiguous(), experts
        pairs = topk_ids.numel()
        self.block_m = min(64, max(16, triton.next_power_of_2(triton.cdiv(pairs, experts))))
        self._used = min(experts, pairs)
        self.blocks = triton.cdiv(pairs, self.block_m) + self._used
        whole = torch.empty(pairs + 3 * self.blocks, dtype=torch.int32, device=topk_ids.device)
        self.tables = whole.split([pairs, self.blocks, self.blocks, self.blocks])
        _route[(experts + 1,)](
            self._ids, *self.tables, pairs, experts, self.blocks, BLOCK_M=self.block_m,
            CHUNK=min(4096, max(16, triton.next_power_of_2(pairs))), BINS=max(16, triton.next_power_of_2(experts + 1)),
            num_warps=4,
        )  # fmt: skip

    def tile_width(self, size: int) -> int:
        """The widest tile of ``size`` columns with which the blocks in use still keep the device busy."""
        return next((width for width in (64, 32) if self._used * triton.cdiv(size, width) >= BUSY), 16)

    def add(self, parts: torch.Tensor, output: torch.Tensor) -> None:
        """Add up ``parts`` [tokens * topk, hidden], float32, into ``output`` [tokens, hidden]."""
        tokens, hidden = output.shape
        block = min(1024, triton.next_power_of_2(hidden))
        _add[(tokens, triton.cdiv(hidden, block))](
            parts, self._ids, output, self._ids.shape[1], hidden, output.stride(0), self._experts,
            BLOCK=block, num_warps=4,
        )  # fmt: skip
