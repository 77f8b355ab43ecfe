"""All op families, and which of them a definition belongs to."""

from __future__ import annotations

from fib_plugin.ops import activation, attention, gemm, gemm_fp8, mla, moe, moe_fp8, norm, ragged, rope, sampling
from fib_plugin.ops.spec import OpSpec
from fib_plugin.schema import Definition

ALL: dict[str, OpSpec] = {
    spec.family: spec
    for module in (gemm, norm, activation, rope, attention, ragged, mla, moe, sampling, gemm_fp8, moe_fp8)
    for spec in module.SPECS
}


def family_of(definition: Definition) -> OpSpec | None:
    """The family whose interface ``definition`` has (op type and input names), or None."""
    names = tuple(definition.inputs)
    for spec in ALL.values():
        if spec.op_type == definition.op_type and spec.inputs == names:
            return spec
    return None
