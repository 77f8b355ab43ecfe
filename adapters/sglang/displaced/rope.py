from types import SimpleNamespace

from sglang.srt.layers.rotary_embedding import base

IS_NEOX = 1  # fib: is_neox


def setup(q, k, cos_sin_cache, positions):
    rope = SimpleNamespace(
        # On a CPU the engine keeps the cache in the model's dtype.
        cos_sin_cache=cos_sin_cache if q.is_cuda else cos_sin_cache.to(q.dtype),
        head_size=q.shape[-1],
        rotary_dim=cos_sin_cache.shape[-1],
        is_neox_style=bool(IS_NEOX),
        use_fallback_kernel=False,
        _apply_rotary_emb_wrapped=base.apply_rotary_emb,
    )
    forward = base.RotaryEmbedding.forward_cuda if q.is_cuda else base.RotaryEmbedding.forward_native
    flat_q, flat_k = q.view(q.shape[0], -1), k.view(k.shape[0], -1)

    def call():
        rotated_q, rotated_k = forward(rope, positions, flat_q, flat_k)
        return rotated_q.view(q.shape), rotated_k.view(k.shape)

    return call


def run(*inputs):
    return setup(*inputs)()
