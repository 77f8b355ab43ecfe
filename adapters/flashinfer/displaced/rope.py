import flashinfer

IS_NEOX = 1  # fib: is_neox


def run(q, k, cos_sin_cache, positions):
    flat_q, flat_k = q.reshape(q.shape[0], -1), k.reshape(k.shape[0], -1)
    rotated = flashinfer.rope.apply_rope_with_cos_sin_cache(
        positions, flat_q, flat_k, q.shape[-1], cos_sin_cache, bool(IS_NEOX)
    )
    return rotated[0].view(q.shape), rotated[1].view(k.shape)
