"""Tolerances by dtype and family: the one place that bench and guard read."""

from __future__ import annotations

from fib_plugin.ops.spec import Tolerance, dtype_name
from fib_plugin.schema import Definition

#: By dtype of the first output. bf16 keeps 8 bits of mantissa: one unit in the last place is 2**-8.
_BY_DTYPE = {
    "float32": Tolerance(1e-4, 1e-4),
    "float16": Tolerance(4e-3, 4e-3),
    "bfloat16": Tolerance(2e-2, 1.6e-2),
}

#: Sums over many terms, or several roundings in a row, move more elements by a unit in the last place.
_BY_OP_TYPE = {
    ("gemm", "bfloat16"): Tolerance(3e-2, 2e-2, 0.999),
    ("gemm", "float16"): Tolerance(1e-2, 1e-2, 0.999),
    ("moe", "bfloat16"): Tolerance(6e-2, 3e-2, 0.99),
    ("moe", "float16"): Tolerance(3e-2, 2e-2, 0.99),
}

_LOOSEST = Tolerance(5e-2, 5e-2, 0.98)


def tolerance(definition: Definition) -> Tolerance:
    """The tolerance of a definition; integer outputs must be equal (atol 0)."""
    dtype = dtype_name(next(iter(definition.outputs.values())).dtype)
    if dtype.startswith(("int", "bool")):
        return Tolerance(0.0, 0.0)
    return _BY_OP_TYPE.get((definition.op_type, dtype)) or _BY_DTYPE.get(dtype, _LOOSEST)
