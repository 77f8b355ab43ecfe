import flashinfer
import torch


def setup(q, k_cache, v_cache, *rest):
    # ``plan`` comes once a step, before the layers.
    *indptrs, kv_indices, scale = rest
    pages = indptrs[-1].cpu()
    last = torch.full((pages.numel() - 1,), k_cache.shape[1], dtype=torch.int32)
    sizes = (q.shape[1], k_cache.shape[2], q.shape[2], k_cache.shape[1])
    workspace = torch.empty(384 << 20, dtype=torch.uint8, device=q.device)
    types = {"q_data_type": q.dtype, "kv_data_type": k_cache.dtype, "sm_scale": float(scale)}
    if len(indptrs) == 1:
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
        wrapper.plan(pages, kv_indices, last, *sizes, **types)
    else:
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
        wrapper.plan(indptrs[0].cpu(), pages, kv_indices, last, *sizes, causal=True, **types)
    return lambda: wrapper.run(q, (k_cache, v_cache), return_lse=True)


def run(*inputs):
    return setup(*inputs)()
