"""Top-k, top-p and top-k-then-top-p sampling by rejection: no sort, one program a row.

In the order of a row (heavier first, ties by index) both filters keep a prefix. A draw from what is left is taken if it
lies in the prefix; else only what lies before it is left. Seeds come from torch's generator, one per row.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _kth(row, V, k, BLOCK: tl.constexpr):
    """A bound that at least k weights reach. Weights are not negative, so they sort as their bits do.

    A pass over the row tries three bounds: what costs is the pass.
    """
    low = 0
    high = 0x7F800000  # fewer than k reach it, or anything beyond
    while high - low > 1:
        step = tl.maximum((high - low) // 4, 1)
        first, second, third = low + step, low + 2 * step, low + 3 * step
        reach_first, reach_second, reach_third = 0, 0, 0
        for start in range(0, V, BLOCK):
            i = start + tl.arange(0, BLOCK)
            p = tl.load(row + i, mask=i < V, other=-1.0)
            reach_first += tl.sum((p >= first.to(tl.float32, bitcast=True)).to(tl.int32), axis=0)
            reach_second += tl.sum((p >= second.to(tl.float32, bitcast=True)).to(tl.int32), axis=0)
            reach_third += tl.sum((p >= third.to(tl.float32, bitcast=True)).to(tl.int32), axis=0)
        if reach_third >= k:
            low = third
            count = reach_third
        elif reach_second >= k:
            low = second
            high = tl.minimum(high, third)
            count = reach_second
        elif reach_first >= k:
            low = first
            high = tl.minimum(high, second)
            count = reach_first
        else:
            high = tl.minimum(high, first)
            count = 0
        if count == k:
            high = low + 1
    return low.to(tl.float32, bitcast=True)


@triton.jit
def _before(row, V, weight, index, BLOCK: tl.constexpr):
    """How many positive weights lie before a place in the order, and their sum."""
    count = 0
    mass = 0.0
    for start in range(0, V, BLOCK):
        i = start + tl.arange(0, BLOCK)
        p = tl.load(row + i, mask=i < V, other=-1.0)
        ahead = (p > weight) | ((p == weight) & (i < index))
        count += tl.sum(ahead.to(tl.int32), axis=0)
        mass += tl.sum(tl.where(ahead & (p > 0), p, 0.0), axis=0)
    return count, mass


@triton.jit
def _walk(row, V, weight, index, target, BLOCK: tl.constexpr):
    """The index at which the running sum of the weights before a place passes ``target``; the last one if none does."""
    found = V
    final = 0
    total = 0.0
    for start in range(0, V, BLOCK):
        i = start + tl.arange(0, BLOCK)
        p = tl.load(row + i, mask=i < V, other=-1.0)
        ahead = ((p > weight) | ((p == weight) & (i < index))) & (p > 0)
        kept = tl.where(ahead, p, 0.0)
        reached = total + tl.cumsum(kept, axis=0)
        found = tl.minimum(found, tl.min(tl.where(ahead & (reached > target), i, V), axis=0))
        final = tl.maximum(final, tl.max(tl.where(ahead, i, 0), axis=0))
        total += tl.sum(kept, axis=0)
    return tl.where(found < V, found, final)


@triton.jit
def _sample_rows(
    probs_ptr, top_k_ptr, top_p_ptr, seed_ptr, out_ptr, V, step,
    HAS_K: tl.constexpr, HAS_P: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0)
    row = probs_ptr + line.to(tl.int64) * step
    seed = tl.load(seed_ptr + line)
    weight = -0.5  # the place behind the whole row
    index = 0
    _, mass = _before(row, V, weight, index, BLOCK)
    k = V
    nucleus = mass * 2
    if HAS_K:
        k = tl.load(top_k_ptr + line)
        k = tl.where((k <= 0) | (k > V), V, k)
    if HAS_P:
        p = tl.load(top_p_ptr + line)
        whole = 1.0
        if HAS_K:
            # Top-p applies to the renormalised rest: what the k heaviest weigh, however ties at the k-th are broken.
            bound = _kth(row, V, k, BLOCK)
            above, whole = _before(row, V, bound, 0, BLOCK)
            whole += (k - above) * bound
        nucleus = tl.where(p >= 1.0, nucleus, p * whole)

    choice = 0
    turn = 0
    done = False
    while (not done) & (turn < 128):  # a bound that NaN cannot outlast
        choice = _walk(row, V, weight, index, tl.rand(seed, turn) * mass, BLOCK)
        drawn = tl.load(row + choice)
        rank, before = _before(row, V, drawn, choice, BLOCK)
        done = ((rank < k) & (before < nucleus)) | (rank == 0)
        weight = drawn
        index = choice
        mass = before
        turn += 1
    tl.store(out_ptr + line, choice.to(tl.int64))


def _launch(probs: torch.Tensor, top_k: torch.Tensor | None, top_p: torch.Tensor | None, samples: torch.Tensor) -> None:
    rows, vocab = probs.shape
    if rows == 0:
        return
    seeds = torch.randint(0, 2**31 - 1, (rows,), device=probs.device)
    block = min(4096, triton.next_power_of_2(vocab))
    _sample_rows[(rows,)](
        probs, probs if top_k is None else top_k, probs if top_p is None else top_p, seeds, samples, vocab,
        probs.stride(0), HAS_K=top_k is not None, HAS_P=top_p is not None, BLOCK=block, num_warps=max(1, block // 512),
    )  # fmt: skip


@torch.no_grad()
def top_k_sampling(probs: torch.Tensor, top_k: torch.Tensor, samples: torch.Tensor) -> None:
    _launch(probs, top_k, None, samples)


@torch.no_grad()
def top_p_sampling(probs: torch.Tensor, top_p: torch.Tensor, samples: torch.Tensor) -> None:
    _launch(probs, None, top_p, samples)


@torch.no_grad()
def top_k_top_p_sampling(probs: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, samples: torch.Tensor) -> None:
    _launch(probs, top_k, top_p, samples)
