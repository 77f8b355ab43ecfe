import torch
from fib_plugin.adapters.vllm.blocks import lay_out
from vllm.v1.attention.backends.fa_utils import flash_attn_varlen_func


def setup(q_nope, q_pe, ckv_cache, kpe_cache, kv_indptr, kv_indices, sm_scale):
    # One row of the engine's cache holds a token's latent and its rotary part.
    laid = lay_out(q_pe, ckv_cache[:, :, None], ckv_cache[:, :, None], kv_indptr, kv_indices, sm_scale)
    turned = lay_out(q_pe, kpe_cache[:, :, None], kpe_cache[:, :, None], kv_indptr, kv_indices, sm_scale)
    rows = torch.cat((laid.keys, turned.keys), dim=-1)
    latent = q_nope.shape[-1]
    q_nope, q_pe = q_nope.contiguous(), q_pe.contiguous()

    def call():
        return flash_attn_varlen_func(
            q=q_pe,
            k=rows[..., latent:],
            v=rows[..., :latent],
            q_v=q_nope,
            max_seqlen_q=1,
            cu_seqlens_q=laid.query_start_loc,
            max_seqlen_k=laid.longest,
            seqused_k=laid.seq_lens,
            block_table=laid.block_table,
            softmax_scale=laid.scale,
            causal=True,
            fa_version=3,
        )

    return call


def run(*inputs):
    return setup(*inputs)()
