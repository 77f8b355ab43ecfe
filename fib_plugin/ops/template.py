"""Short spelling for the definition templates of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent

from fib_plugin.schema import AxisConst, AxisVar, Definition, TensorSpec

#: A tensor as (axis names or None for a scalar, dtype).
Spec = tuple[list[str] | None, str]


def make_definition(
    name: str,
    op_type: str,
    axes: Mapping[str, int | None],
    inputs: Mapping[str, Spec],
    outputs: Mapping[str, Spec],
    reference: str,
    description: str,
) -> Definition:
    """A Definition from plain values; an axis with None is variable."""
    return Definition(
        name=name,
        op_type=op_type,
        axes={axis: AxisVar(type="var") if v is None else AxisConst(type="const", value=v) for axis, v in axes.items()},
        inputs={key: TensorSpec(shape=shape, dtype=dtype) for key, (shape, dtype) in inputs.items()},  # type: ignore[arg-type]
        outputs={key: TensorSpec(shape=shape, dtype=dtype) for key, (shape, dtype) in outputs.items()},  # type: ignore[arg-type]
        reference=dedent(reference).strip() + "\n",
        description=description,
        tags=["source:harvested"],
    )
