"""Grouped-query attention over keys and values that lie one request after the other, causal prefill."""

from __future__ import annotations

from fib_plugin.ops.spec import OpSpec, dtype_part
from fib_plugin.ops.template import make_definition
from fib_plugin.schema import Definition


def gqa_ragged_prefill(num_qo_heads: int, num_kv_heads: int, head_dim: int, dtype: str = "bfloat16") -> Definition:
    """q [total_q, num_qo_heads, head_dim] split by qo_indptr, k and v [total_kv, num_kv_heads, head_dim] by kv_indptr.

    Causal and aligned to the end: the last query of a request sees all its keys.
    """
    h, kv, d = num_qo_heads, num_kv_heads, head_dim
    return make_definition(
        f"gqa_ragged_prefill_causal{dtype_part(dtype)}_h{h}_kv{kv}_d{d}",
        "gqa_ragged",
        {"total_q": None, "total_kv": None, "len_indptr": None, "num_qo_heads": h, "num_kv_heads": kv, "head_dim": d},
        {
            "q": (["total_q", "num_qo_heads", "head_dim"], dtype),
            "k": (["total_kv", "num_kv_heads", "head_dim"], dtype),
            "v": (["total_kv", "num_kv_heads", "head_dim"], dtype),
            "qo_indptr": (["len_indptr"], "int32"),
            "kv_indptr": (["len_indptr"], "int32"),
            "sm_scale": (None, "float32"),
        },
        {"output": (["total_q", "num_qo_heads", "head_dim"], dtype), "lse": (["total_q", "num_qo_heads"], "float32")},
        """
        import math

        import torch


        @torch.no_grad()
        def run(q, k, v, qo_indptr, kv_indptr, sm_scale):
            output = torch.zeros_like(q)
            lse = torch.full(q.shape[:2], -float("inf"), dtype=torch.float32, device=q.device)
            group = q.shape[1] // k.shape[1]
            for request in range(qo_indptr.shape[0] - 1):
                start, end = int(qo_indptr[request]), int(qo_indptr[request + 1])
                first, last = int(kv_indptr[request]), int(kv_indptr[request + 1])
                if start == end or first == last:
                    continue
                keys = k[first:last].to(torch.float32).repeat_interleave(group, dim=1)
                values = v[first:last].to(torch.float32).repeat_interleave(group, dim=1)
                scores = torch.einsum("qhd,khd->hqk", q[start:end].to(torch.float32), keys) * sm_scale
                num_q, num_kv = end - start, last - first
                # The last query sees every key: queries are the newest tokens of the sequence.
                position = torch.arange(num_q, device=q.device)[:, None] + num_kv - num_q
                visible = torch.arange(num_kv, device=q.device) <= position
                scores = scores.masked_fill(~visible, -float("inf"))
                output[start:end] = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), values).to(q.dtype)
                lse[start:end] = (torch.logsumexp(scores, dim=-1) / math.log(2.0)).T
            return output, lse
        """,
        f"Batched causal prefill of grouped-query attention over contiguous keys and values with {h} query heads, {kv} "
        f"KV heads, head size {d}. lse is base 2.",
    )


SPECS = (
    OpSpec(
        family="gqa_ragged_prefill",
        op_type="gqa_ragged",
        key_axes=("total_q", "total_kv"),
        inputs=("q", "k", "v", "qo_indptr", "kv_indptr", "sm_scale"),
        make=gqa_ragged_prefill,
        structural=("qo_indptr", "kv_indptr", "sm_scale"),
    ),
)
