"""Rotary embedding of q and k in one launch: a program turns one head of one token."""

import torch
import triton
import triton.language as tl

IS_NEOX = True  # fib: is_neox


@triton.jit
def _turn(x_ptr, out_ptr, cos, sin, i, inside, half, head_dim, NEOX: tl.constexpr, REST: tl.constexpr):
    # Pair p is (p, p + half) in neox style, (2p, 2p + 1) in gptj style.
    first = i if NEOX else 2 * i
    second = i + half if NEOX else 2 * i + 1
    a = tl.load(x_ptr + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x_ptr + second, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + first, (a * cos - b * sin).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + second, (b * cos + a * sin).to(out_ptr.dtype.element_ty), mask=inside)
    if REST > 0:  # what is not rotated is copied
        j = 2 * half + tl.arange(0, REST)
        tl.store(out_ptr + j, tl.load(x_ptr + j, mask=j < head_dim), mask=j < head_dim)


@triton.jit
def _rotate_heads(
    q_ptr, k_ptr, cache_ptr, positions_ptr, q_out_ptr, k_out_ptr, q_heads, head_dim, half,
    q_token, q_head, k_token, k_head, q_out_token, q_out_head, k_out_token, k_out_head, cache_step,
    NEOX: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    i = tl.arange(0, HALF)
    inside = i < half
    angles = cache_ptr + tl.load(positions_ptr + token) * cache_step
    cos = tl.load(angles + i, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(angles + half + i, mask=inside, other=0.0).to(tl.float32)
    if head < q_heads:
        x = q_ptr + token * q_token + head * q_head
        out = q_out_ptr + token * q_out_token + head * q_out_head
        _turn(x, out, cos, sin, i, inside, half, head_dim, NEOX, REST)
    else:
        x = k_ptr + token * k_token + (head - q_heads) * k_head
        out = k_out_ptr + token * k_out_token + (head - q_heads) * k_out_head
        _turn(x, out, cos, sin, i, inside, half, head_dim, NEOX, REST)


@torch.no_grad()
def rope(
    q: torch.Tensor,
    k: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    positions: torch.Tensor,
    q_out: torch.Tensor,
    k_out: torch.Tensor,
) -> None:
    tokens, q_heads, head_dim = q.shape
    half = cos_sin_cache.shape[1] // 2
    rest = head_dim - 2 * half
    _rotate_heads[(tokens, q_heads + k.shape[1])](
        q, k, cos_sin_cache, positions, q_out, k_out, q_heads, head_dim, half,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1),
        q_out.stride(0), q_out.stride(1), k_out.stride(0), k_out.stride(1), cos_sin_cache.stride(0),
        NEOX=bool(IS_NEOX), HALF=triton.next_power_of_2(half), REST=triton.next_power_of_2(rest) if rest else 0,
        num_warps=1,
    )  # fmt: skip
