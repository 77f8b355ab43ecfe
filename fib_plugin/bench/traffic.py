"""Traffic: what a call has to move between memory and kernel, however good the kernel is, and the arithmetic it does.

A lower bound, never a guess: where a table is read by rows (pages, experts, positions) only the rows that the call
names count, each once; what cannot be known counts as nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fib_plugin.schema import Definition, TensorSpec

#: First axis of a table that is read by rows -> the input that says which rows.
_LOOKUPS = {"num_pages": "kv_indices", "num_experts": "topk_ids", "max_seq_len": "positions"}
#: Integers that name rows, bound requests or filter. Any other integer input may pick what is read.
_KNOWN_INTEGERS = {"qo_indptr", "kv_indptr", "top_k", *_LOOKUPS.values()}
_BYTES = {
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "float8_e4m3fn": 1.0,
    "float8_e5m2": 1.0,
    "float4_e2m1": 0.5,
    "int64": 8.0,
    "int32": 4.0,
    "int16": 2.0,
    "int8": 1.0,
    "bool": 1.0,
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that a call must at least read and write; ``flops`` is None where the op is not about arithmetic."""

    read: int
    written: int
    flops: int | None = None

    @property
    def total(self) -> int:
        return self.read + self.written


def traffic(
    definition: Definition,
    axes: Mapping[str, int],
    inputs: Sequence[Any] | None = None,
    mutates: Sequence[str] = (),
) -> Traffic:
    """What a call of ``definition`` with these variable axes must move: inputs once, outputs once.

    Args:
        inputs: the call's values in the definition's order. Without them a table that is read by rows counts as
            one row, which is the least it can be.
        mutates: inputs that may be written in place. What a call leaves as it is (the part of a head that is not
            rotated) then need not move.

    Raises:
        ValueError: a variable axis has no value.
    """
    sizes = {**axes, **definition.const_axes}
    shapes = dict(zip(definition.inputs, definition.input_shapes(axes), strict=True))
    values = dict(zip(definition.inputs, inputs, strict=True)) if inputs is not None else {}
    unclear = any(
        str(spec.dtype).startswith("int") and name not in _KNOWN_INTEGERS and shapes[name]
        for name, spec in definition.inputs.items()
    )
    kept = _kept_part(definition, sizes) if mutates else 0.0
    read = written = 0.0
    for name, spec in definition.inputs.items():
        size = _bytes(spec, shapes[name])
        if unclear and not str(spec.dtype).startswith("int"):
            continue
        lookup = _LOOKUPS.get((spec.shape or [""])[0])
        if lookup is not None:
            rows = (shapes[name] or (1,))[0]
            size = size / max(rows, 1) * _rows_named(lookup, values)
        read += size * (1.0 - kept) if name in mutates else size
    in_place = {_form(definition.inputs[name]) for name in mutates if name in definition.inputs}
    for spec, shape in zip(definition.outputs.values(), definition.output_shapes(axes), strict=True):
        size = _bytes(spec, shape)
        if _form(spec) in in_place:
            size = 0.0 if unclear else size * (1.0 - kept)
        written += size
    return Traffic(int(read), int(written), _flops(definition, sizes, values))


def _bytes(spec: TensorSpec, shape: Sequence[int] | None) -> float:
    return 0.0 if shape is None else math.prod(shape) * _BYTES.get(str(spec.dtype), 0.0)


def _form(spec: TensorSpec) -> tuple[Any, ...]:
    return tuple(spec.shape or ()), str(spec.dtype)


def _kept_part(definition: Definition, sizes: Mapping[str, int]) -> float:
    """Which part of a tensor an op in place does not touch: heads beyond the rotated size."""
    if definition.op_type == "rope" and "rotary_dim" in sizes:
        return 1.0 - sizes["rotary_dim"] / max(sizes.get("head_dim", 1), 1)
    return 0.0


def _rows_named(lookup: str, values: Mapping[str, Any]) -> int:
    """How many different rows of a table the call reads; 1 where its indices are not given."""
    if lookup not in values:
        return 1
    indices = _array(values[lookup])
    if lookup == "topk_ids":
        indices = indices[_routed(values)]
    elif lookup == "kv_indices" and "kv_indptr" in values:
        spans = [indices[start:end] for start, end in _page_spans(values)]
        indices = np.concatenate(spans) if spans else indices[:0]
    return len(np.unique(indices))


def _routed(values: Mapping[str, Any]) -> Any:
    """Which entries of topk_ids lead to an expert whose output counts."""
    routed = _array(values["topk_ids"]) >= 0
    if "topk_weights" in values:
        routed &= _array(values["topk_weights"]) != 0
    return routed


def _page_spans(values: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Where the pages of each request lie in kv_indices; requests without a query read none."""
    bounds = _array(values["kv_indptr"]).astype(np.int64)
    spans = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    if "qo_indptr" in values:
        queries = np.diff(_array(values["qo_indptr"]).astype(np.int64))
        spans = [span for span, count in zip(spans, queries, strict=True) if count > 0]
    return spans


def _array(value: Any) -> Any:
    """As numpy; a bfloat16 tensor, which numpy does not know, as float32."""
    if hasattr(value, "detach"):
        value = value.detach()
        value = (value.float() if value.is_floating_point() else value).cpu().numpy()
    return np.asarray(value)


def _flops(definition: Definition, sizes: Mapping[str, int], values: Mapping[str, Any]) -> int | None:
    try:
        if definition.op_type == "gemm":
            return 2 * sizes["M"] * sizes["N"] * sizes["K"]
        if definition.op_type == "moe" and "topk_ids" in definition.inputs:
            pairs = int(_routed(values).sum()) if "topk_ids" in values else 0
            return 6 * pairs * sizes["hidden_size"] * sizes["intermediate_size"]
        if definition.op_type == "gqa_paged" and "kv_indptr" in values:
            return 4 * sizes["num_qo_heads"] * sizes["head_dim"] * _attended(values, sizes.get("page_size", 1))
    except KeyError:  # another tool's definition, with axes of other names
        return None
    return None


def _attended(values: Mapping[str, Any], page_size: int) -> int:
    """Pairs of query and key, by one head: all keys in decode, those up to its own position in causal prefill."""
    bounds = _array(values["kv_indptr"]).astype(np.int64)
    keys = np.diff(bounds) * page_size
    if "qo_indptr" not in values:
        return int(keys.sum())
    queries = np.diff(_array(values["qo_indptr"]).astype(np.int64))
    seen = np.minimum(queries, keys)
    return int((seen * keys - seen * (seen - 1) // 2).sum())
