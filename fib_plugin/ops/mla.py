"""Multi-head latent attention over a paged cache of compressed keys and values, decode."""

from __future__ import annotations

from fib_plugin.ops.spec import OpSpec, dtype_part
from fib_plugin.ops.template import Spec, make_definition
from fib_plugin.schema import Definition


def mla_paged_decode(
    num_qo_heads: int,
    head_dim_ckv: int = 512,
    head_dim_kpe: int = 64,
    page_size: int = 1,
    dtype: str = "bfloat16",
) -> Definition:
    """One new token per request, projections absorbed: q_nope and q_pe against the latent and its rotary part."""
    h, ckv, kpe, ps = num_qo_heads, head_dim_ckv, head_dim_kpe, page_size
    inputs: dict[str, Spec] = {
        "q_nope": (["batch_size", "num_qo_heads", "head_dim_ckv"], dtype),
        "q_pe": (["batch_size", "num_qo_heads", "head_dim_kpe"], dtype),
        "ckv_cache": (["num_pages", "page_size", "head_dim_ckv"], dtype),
        "kpe_cache": (["num_pages", "page_size", "head_dim_kpe"], dtype),
        "kv_indptr": (["len_indptr"], "int32"),
        "kv_indices": (["num_kv_indices"], "int32"),
        "sm_scale": (None, "float32"),
    }
    return make_definition(
        f"mla_paged_decode{dtype_part(dtype)}_h{h}_ckv{ckv}_kpe{kpe}_ps{ps}",
        "mla_paged",
        {
            "batch_size": None,
            "num_pages": None,
            "len_indptr": None,
            "num_kv_indices": None,
            "num_qo_heads": h,
            "head_dim_ckv": ckv,
            "head_dim_kpe": kpe,
            "page_size": ps,
        },
        inputs,
        {
            "output": (["batch_size", "num_qo_heads", "head_dim_ckv"], dtype),
            "lse": (["batch_size", "num_qo_heads"], "float32"),
        },
        """
        import math

        import torch


        @torch.no_grad()
        def run(q_nope, q_pe, ckv_cache, kpe_cache, kv_indptr, kv_indices, sm_scale):
            output = torch.zeros_like(q_nope)
            lse = torch.full(q_nope.shape[:2], -float("inf"), dtype=torch.float32, device=q_nope.device)
            for request in range(kv_indptr.shape[0] - 1):
                pages = kv_indices[int(kv_indptr[request]) : int(kv_indptr[request + 1])].long()
                if pages.numel() == 0:
                    continue
                latent = ckv_cache[pages].to(torch.float32).flatten(0, 1)
                rotary = kpe_cache[pages].to(torch.float32).flatten(0, 1)
                scores = q_nope[request].to(torch.float32) @ latent.T + q_pe[request].to(torch.float32) @ rotary.T
                scores = scores * sm_scale
                output[request] = (scores.softmax(dim=-1) @ latent).to(q_nope.dtype)
                lse[request] = torch.logsumexp(scores, dim=-1) / math.log(2.0)
            return output, lse
        """,
        f"Batched decode of multi-head latent attention over a paged cache with {h} query heads, latent size {ckv}, "
        f"rotary size {kpe}, page size {ps}. The softmax scale is the model's own. lse is base 2.",
    )


_PAGES = ("kv_indptr", "kv_indices", "sm_scale")

SPECS = (
    OpSpec(
        family="mla_paged_decode",
        op_type="mla_paged",
        key_axes=("batch_size", "num_kv_indices"),
        inputs=("q_nope", "q_pe", "ckv_cache", "kpe_cache", *_PAGES),
        make=mla_paged_decode,
        structural=_PAGES,
    ),
)
