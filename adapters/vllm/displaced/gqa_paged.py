from inspect import signature
from types import SimpleNamespace

import torch
from fib_plugin.adapters.vllm.cpu_cache import CpuCache
from vllm import _custom_ops
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

BLOCK = 128
#: No window, as a pair before 0.23.
NO_WINDOW = -1 if "dynamic_causal" in signature(_custom_ops.cpu_attention_with_kv_cache).parameters else (-1, -1)


def lay_out(q, k_cache, v_cache, *rest):
    """The engine's packed pool for these inputs, and where each token lies in it."""
    *indptrs, kv_indices, sm_scale = rest
    qo_indptr, kv_indptr = indptrs if len(indptrs) == 2 else (None, indptrs[0])
    if qo_indptr is None:
        qo_indptr = torch.arange(q.shape[0] + 1, dtype=torch.int32)
    heads, dim = k_cache.shape[2], k_cache.shape[3]
    isa = _get_attn_isa(q.dtype, BLOCK, dim)
    lengths = (kv_indptr[1:] - kv_indptr[:-1]).to(torch.int32)
    blocks = (lengths.long() + BLOCK - 1) // BLOCK
    first = torch.cumsum(blocks, 0) - blocks
    request = torch.repeat_interleave(lengths.long())
    offset = torch.arange(kv_indices.numel()) - kv_indptr[:-1].long()[request]
    pool = torch.zeros(int(blocks.sum()), heads, BLOCK, 2 * dim, dtype=q.dtype)
    halves = pool.view(-1, heads, BLOCK * 2, dim).chunk(2, dim=2)
    chosen, slots = kv_indices.long(), first[request] * BLOCK + offset
    _custom_ops.cpu_attn_reshape_and_cache(
        k_cache[chosen, 0], v_cache[chosen, 0], *halves, slots, isa, 1.0, 1.0, "auto"
    )
    table = (first[:, None] + torch.arange(int(blocks.max()))).to(torch.int32)
    return SimpleNamespace(**locals())


def toll(q, *rest):
    # A solution reads token-major keys and values; the engine's blocks are unpacked for it, its result is copied.
    laid = lay_out(q, *rest)
    cache, output, slots = CpuCache(), torch.empty_like(q), laid.slots.to(torch.int32)

    def call():
        cache.unpack(laid.isa, laid.pool, slots, laid.dim, q.dtype)
        output.copy_(q)

    return call


def setup(q, *rest):
    # Writing the cache and planning the step come before the engine's attention call.
    laid = lay_out(q, *rest)
    lengths, qo_indptr, heads, dim, isa = laid.lengths, laid.qo_indptr, laid.heads, laid.dim, laid.isa
    key_cache, value_cache = laid.halves
    plan = {
        "query_start_loc": qo_indptr,
        "seq_lens": lengths,
        "block_table": laid.table,
        "scheduler_metadata": _custom_ops.cpu_attn_get_scheduler_metadata(
            num_reqs=lengths.numel(),
            num_heads=q.shape[1],
            num_kv_heads=heads,
            head_dim=dim,
            seq_lens=lengths,
            dtype=q.dtype,
            query_start_loc=qo_indptr,
            causal=True,
            sliding_window_size=-1,
            isa=isa,
            enable_kv_split=True,
        ),
    }

    def call():
        output = torch.empty_like(q)
        _custom_ops.cpu_attention_with_kv_cache(
            query=q,
            key_cache=key_cache,
            value_cache=value_cache,
            output=output,
            scale=laid.sm_scale,
            causal=True,
            alibi_slopes=None,
            sliding_window=NO_WINDOW,
            softcap=0,
            s_aux=None,
            **plan,
        )
        return output

    return call


def run(*inputs):
    return setup(*inputs)()
