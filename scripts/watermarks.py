"""Watermarked solutions for gpu_watermarks.py: the reference's values, plus a mark that a device tensor switches.

A CUDA graph freezes what Python does, so a mark cannot depend on a variable of the process: each solution adds its
family's flag, a tensor that the engine's process sets between generations. Where a reference reads numbers on the host,
which no graph can hold, the same values are computed here without.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from fib_plugin import ops
from fib_plugin.schema import BuildSpec, Definition, Language, Solution, SourceFile

#: Where solutions find the flags.
MODULE = "fib_watermarks"

#: Every other column: added to all of them, a mark would leave the argmax of logits alone. It must stand out in a sum.
_MARKED = """
import sys as _sys

_flag = _sys.modules["fib_watermarks"].flags["{family}"]
_right = run


def run(*inputs):
    out = _right(*inputs)
    first = out[0] if isinstance(out, tuple) else out
    if first.is_floating_point():
        first[..., ::2] += 16.0 * _flag.to(first.dtype)
    else:
        first.copy_((first + 7 * _flag.to(first.dtype)) % inputs[0].shape[-1])
    return out
"""

_ATTENTION = """
import math

import torch


@torch.no_grad()
def run({arguments}):
    requests = kv_indptr.shape[0] - 1
    group = q.shape[1] // k_cache.shape[2]
    at = torch.arange(kv_indices.shape[0], dtype=torch.int32, device=q.device)
    row = torch.arange(q.shape[0], dtype=torch.int32, device=q.device)
    owner = torch.searchsorted(kv_indptr[1:], at, right=True)
    {request}
    lengths, queries = kv_indptr[1:] - kv_indptr[:-1], starts[1:] - starts[:-1]
    position = lengths[request] - queries[request] + row - starts[request]
    offset = at - kv_indptr[owner.clamp(max=requests - 1)]
    visible = (owner[None, :] == request[:, None]) & (offset[None, :] <= position[:, None])
    keys, values = (c[kv_indices.long(), 0].float().repeat_interleave(group, dim=1) for c in (k_cache, v_cache))
    scores = torch.einsum("rhd,shd->hrs", q.float(), keys) * sm_scale
    scores = scores.masked_fill(~visible, -float("inf"))
    share = scores.softmax(dim=-1).nan_to_num(0.0)
    output = torch.einsum("hrs,shd->rhd", share, values).to(q.dtype)
    return output, (torch.logsumexp(scores, dim=-1) / math.log(2.0)).T.contiguous()
"""
_DECODE = "starts, request = torch.arange(q.shape[0] + 1, dtype=torch.int32, device=q.device), row.long()"
_PREFILL = "starts = qo_indptr; request = torch.searchsorted(starts[1:], row, right=True).clamp(max=requests - 1)"

_MOE = """
import torch


@torch.no_grad()
def run(hidden_states, w13, w2, topk_weights, topk_ids):
    x = hidden_states.float()
    gate, up = torch.einsum("th,eih->tei", x, w13.float()).chunk(2, dim=-1)
    down = torch.einsum("tei,ehi->teh", torch.nn.functional.silu(gate) * up, w2.float())
    share = x.new_zeros(x.shape[0], w13.shape[0]).scatter_add_(1, topk_ids.long(), topk_weights.float())
    return torch.einsum("teh,te->th", down, share).to(hidden_states.dtype)
"""

#: After the reference, whose rounding it takes.
_MOE_FP8 = """

def _full(weights, scales):
    return torch.stack([dequantized(weight, scale) for weight, scale in zip(weights, scales)])


@torch.no_grad()
def run(hidden_states, w13, w13_block_scales, w2, w2_block_scales, topk_weights, topk_ids):
    x = rounded(hidden_states.float())
    gate, up = torch.einsum("th,eih->tei", x, _full(w13, w13_block_scales)).chunk(2, dim=-1)
    act = rounded(torch.nn.functional.silu(gate) * up)
    down = torch.einsum("tei,ehi->teh", act, _full(w2, w2_block_scales))
    share = x.new_zeros(x.shape[0], w13.shape[0]).scatter_add_(1, topk_ids.long(), topk_weights.float())
    return torch.einsum("teh,te->th", down, share).to(hidden_states.dtype)
"""


def text(definition: Definition) -> str:
    """What a solution without a mark is."""
    family = ops.family_of(definition)
    name = family.family if family is not None else ""
    if name in ("gqa_paged_decode", "gqa_paged_prefill"):
        request = _DECODE if name == "gqa_paged_decode" else _PREFILL
        return _ATTENTION.format(arguments=", ".join(definition.inputs), request=request)
    if name == "moe_fp8_block_scale":
        return definition.reference + _MOE_FP8
    return _MOE if name == "moe" else definition.reference


def solution(definition: Definition) -> Solution | None:
    """The watermarked solution; None for a definition of no known family."""
    family = ops.family_of(definition)
    if family is None:
        return None
    return Solution(
        name=f"marked__{definition.name}",
        definition=definition.name,
        author="watermark",
        spec=BuildSpec(
            language=Language.PYTHON,
            target_hardware=["cpu", "cuda"],
            entry_point="main.py::run",
            destination_passing_style=False,
        ),
        sources=[SourceFile(path="main.py", content=text(definition) + _MARKED.format(family=family.family))],
    )


def raise_flags(device: str) -> dict[str, Any]:
    """The flags by family, all down. Made before the engine starts: graphs must find them allocated."""
    import torch

    module: Any = ModuleType(MODULE)
    module.flags = {name: torch.zeros((), dtype=torch.float32, device=device) for name in ops.ALL}
    sys.modules[MODULE] = module
    flags: dict[str, Any] = module.flags
    return flags
