import torch
from vllm import _custom_ops
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

BLOCK = 128


def setup(q, k_cache, v_cache, *rest):
    # Writing the cache and planning the step come before the engine's attention call.
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
    pool = torch.zeros(int(blocks.sum()), heads, BLOCK * 2, dim, dtype=q.dtype)
    key_cache, value_cache = pool.chunk(2, dim=2)
    chosen, slots = kv_indices.long(), first[request] * BLOCK + offset
    _custom_ops.cpu_attn_reshape_and_cache(
        k_cache[chosen, 0], v_cache[chosen, 0], key_cache, value_cache, slots, isa, 1.0, 1.0, "auto"
    )
    plan = {
        "query_start_loc": qo_indptr,
        "seq_lens": lengths,
        "block_table": (first[:, None] + torch.arange(int(blocks.max()))).to(torch.int32),
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
            scale=sm_scale,
            causal=True,
            alibi_slopes=None,
            sliding_window=-1,
            softcap=0,
            s_aux=None,
            **plan,
        )
        return output

    return call


def run(*inputs):
    return setup(*inputs)()
