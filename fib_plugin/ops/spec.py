"""What an op family is: how its definitions are made, which axes decide the winning kernel, how it is judged.

Capture, dispatch, bench and the adapters of every engine share these; nothing here knows an engine.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fib_plugin.schema import Definition
from fib_plugin.schema.source import parse_source

#: Name parts of the dtypes that differ from what engines serve by default (bfloat16 has none).
_DTYPE_PARTS = {"bfloat16": "", "float16": "fp16", "float32": "fp32", "float8_e4m3fn": "fp8"}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """|y - ref| <= atol + rtol * |ref| must hold for at least ``matched_ratio`` of the elements."""

    atol: float
    rtol: float
    matched_ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One op family, e.g. ``rmsnorm``.

    Args:
        family: name of the family; several families may share an op type.
        op_type: the ``op_type`` of its definitions.
        key_axes: variable axes that decide which kernel wins; pool sizes such as num_pages are never among them.
        structural: inputs whose real values decide what a kernel reads; capture always saves them.
        inputs: names of the inputs, in order; they tell families of one op type apart.
        make: builds a Definition from the constants of a call site.
        mutates: inputs the engine's op may overwrite.
        evaluator: ``elementwise`` compares numbers, ``sampling`` compares distributions.
    """

    family: str
    op_type: str
    key_axes: tuple[str, ...]
    inputs: tuple[str, ...]
    make: Callable[..., Definition]
    structural: tuple[str, ...] = ()
    mutates: tuple[str, ...] = ()
    evaluator: Literal["elementwise", "sampling"] = "elementwise"

    def definition(self, **constants: Any) -> Definition:
        """The definition of this family for a call site's constants (sizes, dtype, eps, ...)."""
        return self.make(**constants)

    def point(self, axes: Mapping[str, int]) -> tuple[int, int]:
        """Where a call lies for choosing a kernel: (first key axis, class of the second).

        The second key axis, a number of KV entries, counts per request and by powers of two.
        """
        primary = axes[self.key_axes[0]]
        if len(self.key_axes) == 1:
            return primary, 0
        requests = max(1, axes.get("len_indptr", 2) - 1)
        return primary, length_class(axes[self.key_axes[1]] // requests)


def length_class(tokens: int) -> int:
    """Power-of-two class of a KV length: 0 for none, 1 for 1, 2 for 2-3, 3 for 4-7, ..."""
    return tokens.bit_length()


#: Stands for a length class where one choice must serve every length: a call inside a CUDA graph is chosen once.
ANY_LENGTH = -1


def dtype_part(dtype: str) -> str:
    """Name part for ``dtype``: empty for bfloat16, else ``_fp32`` and the like."""
    part = _DTYPE_PARTS.get(dtype, dtype)
    return f"_{part}" if part else ""


def dtype_name(dtype: Any) -> str:
    """``bfloat16`` for the enum member and for the plain string alike."""
    return str(getattr(dtype, "value", dtype))


def number(value: float) -> str:
    """A float as name part and as source text: 1e-05, 1e-06, 0.125."""
    return repr(float(value))


@functools.lru_cache(maxsize=4096)
def reference_eps(reference: str) -> float | None:
    """The constant that a reference assigns to ``EPS`` (or ``eps``), since eps is no input of norm definitions.

    Returns None when the reference sets none. Matching requires it to equal the live op's eps.
    """
    for node in ast.walk(parse_source(reference)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id.lower() == "eps":
                    return float(node.value.value)  # type: ignore[arg-type]
    return None


def low_bit(definition: Definition) -> bool:
    """Whether an input has a floating-point format of 8 bits or fewer."""
    return any(dtype_name(spec.dtype).startswith(("float8", "float4")) for spec in definition.inputs.values())


def _shape_tokens(definition: Definition, tensors: Iterable[Any], seen: dict[str, str]) -> tuple[Any, ...]:
    tokens: list[Any] = []
    for spec in tensors:
        if spec.shape is None:
            tokens.append((None, dtype_name(spec.dtype)))
            continue
        shape: list[Any] = []
        for axis in spec.shape:
            const = definition.const_axes.get(axis)
            shape.append(const if const is not None else seen.setdefault(axis, f"v{len(seen)}"))
        tokens.append((tuple(shape), dtype_name(spec.dtype)))
    return tuple(tokens)


def structure(definition: Definition) -> Hashable:
    """A definition without its spelling: op type, shapes with constants in place, dtypes, eps.

    Two definitions of equal structure take the same inputs and are interchangeable at a call site,
    whatever their names, axis names and output count beyond the first.
    """
    seen: dict[str, str] = {}
    inputs = _shape_tokens(definition, definition.inputs.values(), seen)
    outputs = _shape_tokens(definition, list(definition.outputs.values())[:1], seen)
    return (definition.op_type, inputs, outputs, reference_eps(definition.reference), _variant(definition))


def _variant(definition: Definition) -> str:
    """What shapes cannot tell apart: rotation style, scales that are powers of two. Read from the name."""
    if definition.op_type == "rope":
        return "gptj" if "gptj" in definition.name else "neox"
    return "ue8m0" if "ue8m0" in definition.name else ""


def constants(definition: Definition) -> dict[str, Any]:
    """Constant axes plus what a kernel needs and no input carries (``eps``, ``is_neox``, ``ue8m0``)."""
    values: dict[str, Any] = dict(definition.const_axes)
    eps = reference_eps(definition.reference)
    if eps is not None:
        values["eps"] = eps
    if definition.op_type == "rope":
        values["is_neox"] = int(_variant(definition) == "neox")
    if low_bit(definition):
        values["ue8m0"] = int(_variant(definition) == "ue8m0")
    return values
