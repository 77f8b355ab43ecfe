"""Rotary position embedding of queries and keys (Su et al., arXiv 2104.09864) from a cos/sin cache."""

from __future__ import annotations

from fib_plugin.ops.spec import OpSpec, dtype_part
from fib_plugin.ops.template import make_definition
from fib_plugin.schema import Definition


def rope(
    head_dim: int, rotary_dim: int, is_neox: bool, dtype: str = "bfloat16", cache_dtype: str = "float32"
) -> Definition:
    """Rotates the first ``rotary_dim`` of each head of q and k by the angles of ``positions``.

    q [num_tokens, num_qo_heads, head_dim] and k [num_tokens, num_kv_heads, head_dim] in ``dtype``;
    cos_sin_cache [max_seq_len, rotary_dim]: cosines in the first half of a row, sines in the second;
    positions [num_tokens] int64. neox rotates halves, gptj rotates neighbours.
    """
    style = "neox" if is_neox else "gptj"
    cache_part = "" if cache_dtype == "float32" else f"_cache{dtype_part(cache_dtype) or '_bf16'}"
    q, k = ["num_tokens", "num_qo_heads", "head_dim"], ["num_tokens", "num_kv_heads", "head_dim"]
    return make_definition(
        f"rope_with_cos_sin_cache_{style}_style{dtype_part(dtype)}{cache_part}_d{head_dim}_rd{rotary_dim}",
        "rope",
        {
            "num_tokens": None,
            "num_qo_heads": None,
            "num_kv_heads": None,
            "max_seq_len": None,
            "head_dim": head_dim,
            "rotary_dim": rotary_dim,
        },
        {
            "q": (q, dtype),
            "k": (k, dtype),
            "cos_sin_cache": (["max_seq_len", "rotary_dim"], cache_dtype),
            "positions": (["num_tokens"], "int64"),
        },
        {"q_out": (q, dtype), "k_out": (k, dtype)},
        f"""
        import torch

        IS_NEOX = {is_neox}
        ROTARY_DIM = {rotary_dim}


        def rotate(x, cos, sin):
            rotated = x[..., :ROTARY_DIM].to(torch.float32)
            if IS_NEOX:
                x1, x2 = rotated.chunk(2, dim=-1)
                rotated = torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)
            else:
                x1, x2 = rotated[..., 0::2], rotated[..., 1::2]
                rotated = torch.stack((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).flatten(-2)
            return torch.cat((rotated.to(x.dtype), x[..., ROTARY_DIM:]), dim=-1)


        @torch.no_grad()
        def run(q, k, cos_sin_cache, positions):
            cos, sin = cos_sin_cache[positions].to(torch.float32).chunk(2, dim=-1)
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
            return rotate(q, cos, sin), rotate(k, cos, sin)
        """,
        f"Rotary embedding, {style} style, head size {head_dim}, rotary size {rotary_dim}.",
    )


SPECS = (
    OpSpec(
        family="rope",
        op_type="rope",
        key_axes=("num_tokens",),
        inputs=("q", "k", "cos_sin_cache", "positions"),
        make=rope,
        structural=("positions",),
        mutates=("q", "k"),
    ),
)
