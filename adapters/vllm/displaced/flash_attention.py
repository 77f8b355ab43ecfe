import inspect

import torch
from fib_plugin.adapters.vllm.blocks import BLOCK, combined, lay_out, layer, metadata
from vllm.v1.attention.backends import flash_attn

forward = inspect.unwrap(flash_attn.FlashAttentionImpl.forward)


def schedule(laid, q):
    # FlashAttention 3 plans a step once for all layers, before the first of them.
    if flash_attn.get_flash_attn_version() != 3:
        return None
    return flash_attn.get_scheduler_metadata(
        batch_size=laid.requests,
        max_seqlen_q=laid.longest_query,
        max_seqlen_k=laid.longest,
        num_heads_q=q.shape[1],
        num_heads_kv=laid.heads,
        headdim=laid.dim,
        cache_seqlens=laid.seq_lens,
        qkv_dtype=q.dtype,
        cu_seqlens_q=laid.query_start_loc,
        page_size=BLOCK,
        causal=True,
        window_size=(-1, -1),
        num_splits=0,
    )


def toll(q, *rest):
    # A solution's result is copied to where the engine expects it; page lists are made once for all layers.
    output = torch.empty_like(q)
    return lambda: output.copy_(q)


def setup(q, *rest):
    laid = lay_out(q, *rest)
    impl = flash_attn.FlashAttentionImpl(q.shape[1], laid.dim, laid.scale, laid.heads, None, None, "auto")
    shape = getattr(flash_attn.FlashAttentionBackend, "get_kv_cache_shape", None)
    sizes = shape(7, BLOCK, laid.heads, laid.dim) if shape is not None else ()
    cache = combined(laid, sizes.index(2) if len(sizes) == 5 else None)
    step, scales = metadata(laid, q.shape[0]), layer(q.device)
    step.scheduler_metadata = schedule(laid, q)

    def call():
        output = torch.empty_like(q)
        forward(impl, scales, q, q, q, cache, step, output)
        return output

    return call


def run(*inputs):
    return setup(*inputs)()
