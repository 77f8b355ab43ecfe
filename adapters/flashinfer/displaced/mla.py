import flashinfer
import torch


def setup(q_nope, q_pe, ckv_cache, kpe_cache, kv_indptr, kv_indices, sm_scale):
    # ``plan`` comes once a step, before the layers.
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=q_nope.device)
    wrapper = flashinfer.mla.BatchMLAPagedAttentionWrapper(workspace)
    wrapper.plan(
        qo_indptr=torch.arange(q_nope.shape[0] + 1, dtype=torch.int32, device=q_nope.device),
        kv_indptr=kv_indptr,
        kv_indices=kv_indices,
        kv_len_arr=(kv_indptr[1:] - kv_indptr[:-1]) * ckv_cache.shape[1],
        num_heads=q_nope.shape[1],
        head_dim_ckv=q_nope.shape[2],
        head_dim_kpe=q_pe.shape[2],
        page_size=ckv_cache.shape[1],
        causal=False,
        sm_scale=float(sm_scale),
        q_data_type=q_nope.dtype,
        kv_data_type=ckv_cache.dtype,
    )
    return lambda: wrapper.run(q_nope=q_nope, q_pe=q_pe, ckv_cache=ckv_cache, kpe_cache=kpe_cache, return_lse=True)


def run(*inputs):
    return setup(*inputs)()
