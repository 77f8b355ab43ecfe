import torch


def split(q, rest):
    """(qo_indptr or None, kv_indptr, kv_indices, sm_scale)."""
    *indptrs, kv_indices, sm_scale = rest
    return (*((None, *indptrs) if len(indptrs) == 1 else indptrs), kv_indices, float(sm_scale))


def on_cuda(q, k_cache, v_cache, *rest):
    # What the engine plans once a step for all layers is not timed.
    from flashinfer import BatchDecodeWithPagedKVCacheWrapper, BatchPrefillWithPagedKVCacheWrapper

    qo_indptr, kv_indptr, kv_indices, sm_scale = split(q, rest)
    heads, kv_heads, dim = q.shape[1], k_cache.shape[2], q.shape[2]
    space = torch.empty(384 << 20, dtype=torch.uint8, device=q.device)
    last = torch.ones(kv_indptr.numel() - 1, dtype=torch.int32, device=q.device)
    dtypes = {"q_data_type": q.dtype, "kv_data_type": k_cache.dtype}
    if qo_indptr is None:
        wrapper = BatchDecodeWithPagedKVCacheWrapper(space, "NHD", use_tensor_cores=heads // kv_heads >= 4)
        wrapper.plan(kv_indptr, kv_indices, last, heads, kv_heads, dim, 1, sm_scale=sm_scale, **dtypes)
    else:
        wrapper = BatchPrefillWithPagedKVCacheWrapper(space, "NHD")
        places = (qo_indptr, kv_indptr, kv_indices, last)
        wrapper.plan(*places, heads, kv_heads, dim, 1, causal=True, sm_scale=sm_scale, **dtypes)
    return lambda: wrapper.run(q, (k_cache, v_cache))


def on_cpu(q, k_cache, v_cache, *rest):
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

    qo_indptr, kv_indptr, kv_indices, sm_scale = split(q, rest)
    lengths = (kv_indptr[1:] - kv_indptr[:-1]).long()
    requests = torch.arange(lengths.numel())
    table = torch.zeros(lengths.numel(), int(lengths.max()), dtype=torch.int64)
    for request, (start, length) in enumerate(zip(kv_indptr.tolist(), lengths.tolist(), strict=False)):
        table[request, :length] = kv_indices[start : start + length]
    keys, values = k_cache[:, 0], v_cache[:, 0]
    options = {"scaling": sm_scale, "enable_gqa": q.shape[1] != keys.shape[1], "causal": qo_indptr is not None}
    given = (keys, values, table, requests, lengths)
    if qo_indptr is None:
        attend = TorchNativeAttnBackend._run_sdpa_forward_decode
        return lambda: attend(None, q, torch.empty_like(q), *given, **options)
    attend = TorchNativeAttnBackend._run_sdpa_forward_extend
    new = (qo_indptr[1:] - qo_indptr[:-1]).long()
    return lambda: attend(None, q, torch.empty_like(q), *given, lengths - new, new, **options)


def setup(q, *rest):
    return on_cuda(q, *rest) if q.is_cuda else on_cpu(q, *rest)


def run(*inputs):
    return setup(*inputs)()
