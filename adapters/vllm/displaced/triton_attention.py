import inspect

import torch
from fib_plugin.adapters.vllm.blocks import BLOCK, combined, lay_out, layer, metadata
from vllm.v1.attention.backends import triton_attn

forward = inspect.unwrap(triton_attn.TritonAttentionImpl.forward)
SEGMENTS = 16


def toll(q, *rest):
    # A solution's result is copied to where the engine expects it; page lists are made once for all layers.
    output = torch.empty_like(q)
    return lambda: output.copy_(q)


def setup(q, *rest):
    laid = lay_out(q, *rest)
    impl = triton_attn.TritonAttentionImpl(q.shape[1], laid.dim, laid.scale, laid.heads, None, None, "auto")
    shape = getattr(triton_attn.TritonAttentionBackend, "get_kv_cache_shape", None)
    sizes = shape(7, BLOCK, laid.heads, laid.dim) if shape is not None else ()
    cache = combined(laid, sizes.index(2) if len(sizes) == 5 else None)
    threshold = 128 // laid.heads
    padded = 1 << (laid.dim - 1).bit_length()

    def segments(*tail):
        return torch.empty(threshold, q.shape[1], SEGMENTS, *tail, dtype=torch.float32, device=q.device)

    step = metadata(
        laid,
        q.shape[0],
        seq_threshold_3D=threshold,
        num_par_softmax_segments=SEGMENTS,
        softmax_segm_output=segments(padded),
        softmax_segm_max=segments(),
        softmax_segm_expsum=segments(),
    )
    scales = layer(q.device)

    def call():
        output = torch.empty_like(q)
        forward(impl, scales, q, q, q, cache, step, output)
        return output

    return call


def run(*inputs):
    return setup(*inputs)()
