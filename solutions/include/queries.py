"""Blocks of query tokens, each of one request: a program finds its own, for a grid that shapes alone give.

All query heads of a key-value head are rows of the same tile, so that keys and values are loaded once for the group.
"""

import triton
import triton.language as tl


@triton.jit
def request_of(qo_indptr, requests, block, TOKENS: tl.constexpr):
    """The request whose query tokens ``block`` holds, the end of its tokens, and the block's first token.

    Request r may own blocks from indptr[r] // TOKENS + r on: it is the last r that starts at or before the block. The
    block is empty where its first token is not before that end.
    """
    low = 0
    high = requests
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(qo_indptr + middle) // TOKENS + middle <= block:
            low = middle
        else:
            high = middle
    first = tl.load(qo_indptr + low)
    last = tl.load(qo_indptr + low + 1)
    return low, last, first + (block - first // TOKENS - low) * TOKENS


@triton.jit
def rows_of(start, last, kv_head, GROUP: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr):
    """Token, query head and validity of each of ROWS rows of the block that begins at token ``start``."""
    row = tl.arange(0, ROWS)
    token = start + row // GROUP
    return token, kv_head * GROUP + row % GROUP, (row < TOKENS * GROUP) & (token < last)


@triton.jit
def load(q_ptr, token, head, valid, d, q_token, q_head, D: tl.constexpr):
    """The queries [rows, D] of d numbers, zeros where there is none."""
    i = tl.arange(0, D)
    q_rows = q_ptr + token[:, None].to(tl.int64) * q_token + head[:, None] * q_head + i[None, :]
    return tl.load(q_rows, mask=valid[:, None] & (i < d)[None, :], other=0.0)


@triton.jit
def store(out_ptr, lse_ptr, result, lse, token, head, valid, d, out_token, out_head, lse_token, D: tl.constexpr):
    """Write the result [rows, D] of d numbers and its log-sum [rows] where the rows' queries stand."""
    i = tl.arange(0, D)
    out_rows = out_ptr + token[:, None].to(tl.int64) * out_token + head[:, None] * out_head + i[None, :]
    tl.store(out_rows, result.to(out_ptr.dtype.element_ty), mask=valid[:, None] & (i < d)[None, :])
    tl.store(lse_ptr + token.to(tl.int64) * lse_token + head, lse, mask=valid)
