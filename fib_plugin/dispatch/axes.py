"""Reads the variable axes of a definition off live inputs, as code that was written out once for the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fib_plugin.schema import Definition


def reader(definition: Definition) -> Callable[..., dict[str, int]]:
    """A function of the definition's inputs, in order, that returns sizes by variable axis.

    It raises ValueError, as ``Definition.axis_values`` does, when shapes do not fit the definition.
    """
    const = definition.const_axes
    #: Where the size of each variable axis is read first.
    home: dict[str, str] = {}
    names = [f"a{index}" for index in range(len(definition.inputs))]
    lines: list[str] = []
    checks: list[str] = []
    for index, spec in enumerate(definition.inputs.values()):
        if spec.shape is None:
            continue
        lines.append(f"s{index} = a{index}.shape")
        checks.append(f"len(s{index}) == {len(spec.shape)}")
        for dim, axis in enumerate(spec.shape):
            place = f"s{index}[{dim}]"
            if axis in const:
                checks.append(f"{place} == {const[axis]}")
            elif home.setdefault(axis, place) != place:
                checks.append(f"{place} == {home[axis]}")
    values = ", ".join(f"{axis!r}: {home[axis]}" for axis in definition.var_axes if axis in home)
    complete = all(axis in home for axis in definition.var_axes)
    body = "".join(f"        {line}\n" for line in lines)
    fits = " and ".join(checks) if complete else "False"
    scope: dict[str, Any] = {"careful": lambda inputs: _carefully(definition, inputs)}
    source = (
        f"def read({', '.join(names)}):\n"
        f"    try:\n{body}        if {fits or 'True'}:\n            return {{{values}}}\n"
        "    except AttributeError:\n        pass\n"
        f"    return careful(({''.join(name + ', ' for name in names)}))\n"
    )
    exec(source, scope)
    read: Callable[..., dict[str, int]] = scope["read"]
    return read


def _carefully(definition: Definition, inputs: tuple[Any, ...]) -> dict[str, int]:
    return definition.axis_values([getattr(value, "shape", None) for value in inputs])
