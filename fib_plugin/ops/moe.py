"""Mixture of experts after routing: gated experts, weighted by the router."""

from __future__ import annotations

from fib_plugin.ops.spec import OpSpec, dtype_part
from fib_plugin.ops.template import make_definition
from fib_plugin.schema import Definition


def moe(topk: int, num_experts: int, hidden_size: int, intermediate_size: int, dtype: str = "bfloat16") -> Definition:
    """SwiGLU experts: ``sum_j topk_weights[t, j] * (w2[e] @ (silu(gate) * up))`` with e = topk_ids[t, j].

    hidden_states [num_tokens, hidden_size], w13 [num_experts, 2 * intermediate_size, hidden_size] with the gate rows
    first, w2 [num_experts, hidden_size, intermediate_size], all in ``dtype``; topk_weights float32 and topk_ids int32,
    both [num_tokens, topk].
    """
    e, h, i = num_experts, hidden_size, intermediate_size
    return make_definition(
        f"moe{dtype_part(dtype)}_topk{topk}_e{e}_h{h}_i{i}",
        "moe",
        {
            "num_tokens": None,
            "topk": topk,
            "num_experts": e,
            "hidden_size": h,
            "two_i": 2 * i,
            "intermediate_size": i,
        },
        {
            "hidden_states": (["num_tokens", "hidden_size"], dtype),
            "w13": (["num_experts", "two_i", "hidden_size"], dtype),
            "w2": (["num_experts", "hidden_size", "intermediate_size"], dtype),
            "topk_weights": (["num_tokens", "topk"], "float32"),
            "topk_ids": (["num_tokens", "topk"], "int32"),
        },
        {"output": (["num_tokens", "hidden_size"], dtype)},
        """
        import torch


        @torch.no_grad()
        def run(hidden_states, w13, w2, topk_weights, topk_ids):
            x = hidden_states.to(torch.float32)
            output = torch.zeros_like(x)
            for expert in topk_ids.unique().tolist():
                tokens, slots = (topk_ids == expert).nonzero(as_tuple=True)
                gate, up = (x[tokens] @ w13[expert].to(torch.float32).T).chunk(2, dim=-1)
                down = (gate * torch.sigmoid(gate) * up) @ w2[expert].to(torch.float32).T
                output.index_add_(0, tokens, down * topk_weights[tokens, slots, None].to(torch.float32))
            return output.to(hidden_states.dtype)
        """,
        f"SwiGLU mixture of experts after routing: top {topk} of {e}, hidden size {h}, intermediate size {i}.",
    )


SPECS = (
    OpSpec(
        family="moe",
        op_type="moe",
        key_axes=("num_tokens",),
        inputs=("hidden_states", "w13", "w2", "topk_weights", "topk_ids"),
        make=moe,
        structural=("topk_weights", "topk_ids"),
    ),
)
