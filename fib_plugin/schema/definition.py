"""Definition: what a kernel computes. Axes, tensors and a plain reference; the contract that solutions are held to."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from typing_extensions import Self

from fib_plugin.schema.errors import rule
from fib_plugin.schema.record import Name, Record, Size
from fib_plugin.schema.source import parse_source

Shape = tuple[int, ...]


class DType(str, Enum):
    """Element types the schema knows; the value is torch's name of the type."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT8_E4M3FN = "float8_e4m3fn"
    FLOAT8_E5M2 = "float8_e5m2"
    FLOAT4_E2M1 = "float4_e2m1"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    BOOL = "bool"

    __str__ = str.__str__


class AxisConst(Record):
    """An axis whose size is part of the definition."""

    type: Literal["const"] = "const"
    value: Size
    description: str | None = None

    def model_post_init(self, context: Any, /) -> None:
        # `type` has a default, but a file without it is ambiguous to other readers: always write it.
        self.__pydantic_fields_set__.add("type")


class AxisVar(Record):
    """An axis whose size comes with each call."""

    type: Literal["var"] = "var"
    description: str | None = None

    def model_post_init(self, context: Any, /) -> None:
        self.__pydantic_fields_set__.add("type")


def _axis_tag(axis: Any) -> str | None:
    if isinstance(axis, Mapping):
        kind = axis.get("type", "const" if "value" in axis else "var")
    else:
        kind = getattr(axis, "type", None)
    return f"<{kind}>"


AxisSpec = Annotated[
    Annotated[AxisConst, Tag("<const>")] | Annotated[AxisVar, Tag("<var>")],
    Discriminator(
        _axis_tag,
        custom_error_type="unknown_type",
        custom_error_message="an axis has the type 'const' (with a value) or 'var'",
    ),
]


class TensorSpec(Record):
    """Axis names and element type of one tensor; a shape of None is a scalar."""

    shape: list[Name] | None
    dtype: DType
    description: str | None = None


class Definition(Record):
    """One operation with its constants fixed, e.g. a GEMM with N and K known and M free."""

    name: Name
    op_type: Name
    axes: dict[Name, AxisSpec]
    inputs: dict[Name, TensorSpec]
    outputs: dict[Name, TensorSpec]
    reference: Name
    tags: list[Name] = Field(default_factory=list)
    description: str | None = None
    constraints: list[Name] | None = Field(default_factory=list)

    @property
    def const_axes(self) -> dict[str, int]:
        """Sizes of the constant axes, in declaration order."""
        return {name: axis.value for name, axis in self.axes.items() if isinstance(axis, AxisConst)}

    @property
    def var_axes(self) -> list[str]:
        """Names of the variable axes, in declaration order."""
        return [name for name, axis in self.axes.items() if isinstance(axis, AxisVar)]

    def axis_values(self, input_shapes: Iterable[Sequence[int] | None]) -> dict[str, int]:
        """Sizes of the variable axes, read off the shapes of the inputs (in input order; None for a scalar).

        Raises ValueError when shapes contradict each other, a constant axis, or leave an axis unbound.
        """
        shapes = list(input_shapes)
        if len(shapes) != len(self.inputs):
            raise ValueError(f"{self.name} has {len(self.inputs)} inputs, {len(shapes)} shapes were given")
        found: dict[str, int] = {}
        constants = self.const_axes
        for (name, spec), shape in zip(self.inputs.items(), shapes, strict=True):
            if spec.shape is None:
                continue
            if shape is None or len(shape) != len(spec.shape):
                raise ValueError(f"{self.name}: input {name} should have the axes {spec.shape}, its shape is {shape}")
            for axis, size in zip(spec.shape, shape, strict=True):
                known = constants.get(axis, found.setdefault(axis, int(size)))
                if known != size:
                    raise ValueError(f"{self.name}: axis {axis} is {known}, but input {name} has {size} there")
        values = {axis: found[axis] for axis in self.var_axes if axis in found}
        unbound = [axis for axis in self.var_axes if axis not in values]
        if unbound:
            raise ValueError(f"{self.name}: no input carries the variable axes {unbound}")
        return values

    def input_shapes(self, axes: Mapping[str, int]) -> list[Shape | None]:
        """Concrete input shapes for given variable axes, in input order; None for a scalar."""
        return self._shapes(self.inputs.values(), axes)

    def output_shapes(self, axes: Mapping[str, int]) -> list[Shape | None]:
        """Concrete output shapes for given variable axes, in output order; None for a scalar."""
        return self._shapes(self.outputs.values(), axes)

    def _shapes(self, tensors: Iterable[TensorSpec], axes: Mapping[str, int]) -> list[Shape | None]:
        sizes = {**axes, **self.const_axes}
        try:
            return [None if spec.shape is None else tuple(sizes[axis] for axis in spec.shape) for spec in tensors]
        except KeyError as error:
            raise ValueError(f"{self.name}: the variable axis {error.args[0]!r} has no value") from error

    @model_validator(mode="after")
    def _check(self) -> Self:
        overlap = sorted(set(self.inputs) & set(self.outputs))
        if overlap:
            raise rule(
                f"input and output names overlap: {', '.join(overlap)}",
                field="outputs",
                remedy="rename the outputs; an op that writes in place still gets an output name of its own",
            )
        self._check_axes()
        self._check_reference()
        self._check_constraints()
        return self

    def _check_axes(self) -> None:
        for kind, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            for name, spec in tensors.items():
                for axis in spec.shape or ():
                    if axis not in self.axes:
                        raise rule(
                            f"axis {axis!r} is used but not declared",
                            field=f"{kind}.{name}.shape",
                            remedy=f"declare {axis!r} under axes, or correct the name",
                        )

    def _check_reference(self) -> None:
        try:
            tree = parse_source(self.reference)
        except (SyntaxError, ValueError) as error:
            raise rule(
                f"the reference is not Python: {error}", field="reference", remedy="correct the source"
            ) from error
        if not any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in ast.iter_child_nodes(tree)):
            raise rule(
                "the reference has no top-level function 'run'",
                field="reference",
                remedy="define run(<inputs in order>) at top level",
            )

    def _check_constraints(self) -> None:
        for index, constraint in enumerate(self.constraints or ()):
            try:
                parse_source(constraint.strip(), "eval")
            except (SyntaxError, ValueError) as error:
                raise rule(
                    f"the constraint {constraint!r} is not an expression",
                    field=f"constraints.{index}",
                    remedy="write a Python expression over axis names, e.g. 'len_indptr == batch_size + 1'",
                ) from error
