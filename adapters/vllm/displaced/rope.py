from vllm import _custom_ops

IS_NEOX = 1  # fib: is_neox


def setup(q, k, cos_sin_cache, positions):
    # The engine keeps the cache in the model's dtype.
    cache = cos_sin_cache.to(q.dtype)
    flat_q, flat_k = q.view(q.shape[0], -1), k.view(k.shape[0], -1)

    def call():
        _custom_ops.rotary_embedding(positions, flat_q, flat_k, q.shape[-1], cache, bool(IS_NEOX))
        return q, k

    return call


def toll(q, k, cos_sin_cache, positions):
    # The engine's op works in place; a solution's result is copied back.
    def call():
        q.copy_(q_out)
        k.copy_(k_out)

    q_out, k_out = q.clone(), k.clone()
    return call


def run(*inputs):
    return setup(*inputs)()
