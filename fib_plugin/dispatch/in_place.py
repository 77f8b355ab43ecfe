"""HOT. The form of a solution that leaves its outputs where the engine's op does: in the place of inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from fib_plugin.build import Runnable


def in_place(runnable: Runnable, places: Sequence[int], mutable: Sequence[str]) -> Callable[..., Any] | None:
    """``call`` of a solution in destination-passing style with inputs for its outputs; None where that is no form.

    Not every kernel can read and write the same memory: only a trial on live calls tells. Tensors with gaps, which no
    output of a solution has, are left alone.

    Args:
        places: the inputs that are to become the outputs, in the outputs' order; at least two.
        mutable: names of the inputs that may be overwritten.
    """
    definition = runnable.definition
    inputs, outputs = list(definition.inputs.items()), list(definition.outputs.values())
    if (
        not runnable.solution.spec.destination_passing_style
        or len(places) < 2
        or len(places) != len(outputs)
        or any(inputs[place][0] not in mutable for place in places)
        or any(_form(inputs[place][1]) != _form(output) for place, output in zip(places, outputs, strict=True))
    ):
        return None
    into, call, pick = runnable.into, runnable.call, itemgetter(*places)

    def run(*given: Any) -> Any:
        results = pick(given)
        for result in results:
            if not result.is_contiguous():
                return call(*given)
        into(*given, *results)
        return results

    return run


def _form(tensor: Any) -> tuple[Any, Any]:
    return tensor.shape, tensor.dtype
