"""Sampling of the next token from probabilities, filtered by top-k, top-p or both."""

from __future__ import annotations

from collections.abc import Callable

from fib_plugin.ops.spec import OpSpec
from fib_plugin.ops.template import Spec, make_definition
from fib_plugin.schema import Definition

_REFERENCE = """
import torch


@torch.no_grad()
def run({arguments}):
    values, order = probs.to(torch.float32).sort(dim=-1, descending=True)
    rank = torch.arange(probs.shape[-1], device=probs.device)
{filters}
    choice = torch.multinomial(values, 1)
    return order.gather(-1, choice).squeeze(-1).to(torch.int64)
"""

_TOP_K = """    limit = torch.where(top_k > 0, top_k, probs.shape[-1]).unsqueeze(-1)
    values = values.masked_fill(rank >= limit, 0.0)
    values = values / values.sum(dim=-1, keepdim=True)
"""

# A token stays while the mass before it is below top_p, so the first one always stays.
_TOP_P = """    before = values.cumsum(dim=-1) - values
    values = values.masked_fill((before >= top_p.unsqueeze(-1)) & (rank > 0), 0.0)
"""


def _sampling(stem: str, filters: str, **arguments: str) -> Callable[..., Definition]:
    inputs: dict[str, Spec] = {"probs": (["batch_size", "vocab_size"], "float32")}
    inputs |= {name: (["batch_size"], dtype) for name, dtype in arguments.items()}

    def make(vocab_size: int) -> Definition:
        return make_definition(
            f"{stem}_sampling_from_probs_v{vocab_size}",
            "sampling",
            {"batch_size": None, "vocab_size": vocab_size},
            inputs,
            {"samples": (["batch_size"], "int64")},
            _REFERENCE.format(arguments=", ".join(inputs), filters=filters.rstrip("\n")),
            f"Samples one of {vocab_size} tokens per row after {stem.replace('_', '-')} filtering "
            "(k first, p on the renormalised rest).",
        )

    return make


SPECS = tuple(
    OpSpec(
        family=f"{stem}_sampling",
        op_type="sampling",
        key_axes=("batch_size",),
        inputs=("probs", *arguments),
        make=_sampling(stem, filters, **arguments),
        structural=tuple(arguments),
        evaluator="sampling",
    )
    for stem, filters, arguments in (
        ("top_k", _TOP_K, {"top_k": "int32"}),
        ("top_p", _TOP_P, {"top_p": "float32"}),
        ("top_k_top_p", _TOP_K + _TOP_P, {"top_k": "int32", "top_p": "float32"}),
    )
)
