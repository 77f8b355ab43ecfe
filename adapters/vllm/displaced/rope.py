from vllm import _custom_ops

IS_NEOX = 1  # fib: is_neox

# The engine keeps the cache in the model's dtype; converting it is no part of a call.
_caches = {}


def run(q, k, cos_sin_cache, positions):
    key = (cos_sin_cache.data_ptr(), q.dtype)
    if key not in _caches:
        _caches[key] = (cos_sin_cache.to(q.dtype), cos_sin_cache)
    tokens = q.shape[0]
    _custom_ops.rotary_embedding(
        positions, q.view(tokens, -1), k.view(tokens, -1), q.shape[-1], _caches[key][0], bool(IS_NEOX)
    )
    return q, k
