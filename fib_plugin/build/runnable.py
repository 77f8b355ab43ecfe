"""Runnable: a built solution with both calling conventions, written out at build time as straight-line Python.

Hot: `call` and `into` run inside the engine. They do nothing but the solution's call and the allocation of its outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fib_plugin.build.error import BuildError
from fib_plugin.schema import Definition, Solution

#: One dimension of an output: its size, or (input, dimension) where to read it.
Dim = int | tuple[int, int]


@dataclass(slots=True, eq=False)
class Runnable:
    """A built solution.

    Args:
        call: takes the inputs, returns the output, or a tuple of them when there are several.
        into: takes the inputs and the outputs, writes the outputs.
        setup: for ops that an installed adapter ships only: takes the inputs and returns the call without what an
            engine does beforehand (packing weights, planning a step).
        toll: likewise: takes the inputs and returns a call of what the adapter must do around a
            solution that it does not do around the engine's op (unpacking a cache, a softmax).
        keep: what must stay alive as long as the code is called, such as the loaded library.
    """

    solution: Solution
    definition: Definition
    call: Callable[..., Any]
    into: Callable[..., None]
    keep: Any = None
    setup: Callable[..., Callable[[], Any]] | None = None
    toll: Callable[..., Callable[[], Any]] | None = None

    @classmethod
    def resolve(
        cls,
        solution: Solution,
        definition: Definition,
        function: Callable[..., Any],
        keep: Any = None,
    ) -> Runnable:
        """Wrap ``function`` by the solution's convention.

        Raises:
            BuildError: the shape of an output does not follow from the inputs.
        """
        if solution.spec.destination_passing_style:
            call, into = _allocating(definition, function), function
        else:
            call, into = (
                _returning(definition, function),
                _copying(definition, function),
            )
        return cls(solution, definition, call, into, keep)


def output_plan(definition: Definition) -> list[list[Dim]]:
    """How each output's shape follows from the inputs.

    Raises:
        BuildError: a variable axis of an output appears in no input.
    """
    home: dict[str, tuple[int, int]] = {}
    for index, tensor in enumerate(definition.inputs.values()):
        for dim, axis in enumerate(tensor.shape or ()):
            home.setdefault(axis, (index, dim))
    sizes = definition.const_axes
    plan: list[list[Dim]] = []
    for name, tensor in definition.outputs.items():
        try:
            plan.append([sizes[axis] if axis in sizes else home[axis] for axis in tensor.shape or ()])
        except KeyError as error:
            raise BuildError(
                f"{definition.name}: the size of axis {error.args[0]!r} of output {name!r} follows from no input",
                remedy="make it a constant axis, or give an input that axis",
            ) from None
    return plan


def _allocating(definition: Definition, function: Callable[..., Any]) -> Callable[..., Any]:
    plan = output_plan(definition)
    inputs = list(definition.inputs.values())
    tensors = [index for index, tensor in enumerate(inputs) if tensor.shape is not None]
    names = _names("a", len(inputs))
    results = _names("o", len(plan))
    scope: dict[str, Any] = {"fn": function}
    lines = []
    for index, (dims, output) in enumerate(zip(plan, definition.outputs.values(), strict=True)):
        shape = "".join(f"{dim if isinstance(dim, int) else f'a{dim[0]}.shape[{dim[1]}]'}, " for dim in dims)
        alike = next((i for i in tensors if inputs[i].dtype == output.dtype), None)
        if alike is not None:  # half the cost of naming dtype and device
            lines.append(f"o{index} = a{alike}.new_empty(({shape}))")
        else:
            scope[f"d{index}"] = torch_dtype(output.dtype)
            source = f"a{tensors[0]}.new_empty" if tensors else "empty"
            lines.append(f"o{index} = {source}(({shape}), dtype=d{index})")
    if not tensors:
        import torch

        scope["empty"] = torch.empty
    lines += [f"fn({', '.join(names + results)})", f"return {', '.join(results)}"]
    return _define("call", names, lines, scope)


def _returning(definition: Definition, function: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    names = _names("a", len(definition.inputs))
    single = len(definition.outputs) == 1
    scope = {
        "fn": function,
        "expected": torch.Tensor if single else tuple,
        "unwrap": _unwrapper(list(definition.outputs)),
    }
    lines = [
        f"r = fn({', '.join(names)})",
        "return r if type(r) is expected else unwrap(r)",
    ]
    return _define("call", names, lines, scope)


def _unwrapper(outputs: list[str]) -> Callable[[Any], Any]:
    """Brings the other ways of returning to ours: a dict by output name, a list, a tuple of one, a foreign tensor."""

    def unwrap(result: Any) -> Any:
        if isinstance(result, dict) and set(result) == set(outputs):
            result = tuple(result[name] for name in outputs)
        elif isinstance(result, (list, tuple)):
            result = tuple(result)
        else:
            result = (result,)
        result = tuple(native(value) for value in result)
        return result[0] if len(outputs) == 1 and len(result) == 1 else result

    def native(value: Any) -> Any:
        import torch.utils.dlpack

        # Compiled code may return its binding's own tensor; torch can take it over without a copy.
        if not isinstance(value, torch.Tensor) and hasattr(value, "__dlpack__"):
            return torch.utils.dlpack.from_dlpack(value)
        return value

    return unwrap


def _copying(definition: Definition, function: Callable[..., Any]) -> Callable[..., None]:
    call = _returning(definition, function)
    count, outputs = len(definition.inputs), list(definition.outputs)

    def into(*arguments: Any) -> None:
        result = call(*arguments[:count])
        results = result if isinstance(result, tuple) else (result,)
        targets = arguments[count:]
        if len(results) != len(targets):
            raise ValueError(f"{len(outputs)} outputs are expected ({', '.join(outputs)}), {len(results)} returned")
        for name, value, target in zip(outputs, results, targets, strict=True):
            # copy_ would broadcast a wrong shape and convert a wrong type without a word.
            if value.shape != target.shape or value.dtype != target.dtype:
                raise ValueError(
                    f"output {name} is {tuple(value.shape)} {value.dtype}, "
                    f"expected {tuple(target.shape)} {target.dtype}"
                )
            target.copy_(value)

    return into


def torch_dtype(name: str) -> Any:
    """torch's type for a dtype of the schema."""
    import torch

    return getattr(torch, "float4_e2m1fn_x2" if name == "float4_e2m1" else str(name))


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{index}" for index in range(count)]


def _define(name: str, arguments: list[str], lines: list[str], scope: dict[str, Any]) -> Callable[..., Any]:
    # Only indices and sizes are spliced in, never text of a file.
    source = f"def {name}({', '.join(arguments)}):\n" + "".join(f"    {line}\n" for line in lines)
    exec(compile(source, f"<{name}>", "exec"), scope)
    return scope[name]  # type: ignore[no-any-return]
