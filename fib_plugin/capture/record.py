"""Record: one call worth keeping, as the recorder hands it to the writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fib_plugin.schema import Definition, RandomInput, Solution

#: Stands for an input whose values do not matter.
RANDOM = RandomInput(type="random")


@dataclass(slots=True, eq=False)
class Record:
    """The shapes of one call and those of its inputs that are kept.

    Args:
        definition: what was called.
        displaced: the engine's own op as a Solution, written down once beside the definition.
        axes: sizes of the variable axes.
        inputs: by name, RANDOM, a number, or a tensor (torch, numpy) that nobody else writes to; RANDOM if left out.
        ready: for tensors still on their way from a device: True once they may be read; the writer's thread polls it.
        settled: called once by the writer's thread, holding no lock: with the uuid of the workload that is on disk and
            whether it is new there, or with an empty uuid when the record was dropped after all.
    """

    definition: Definition
    displaced: Solution | None
    axes: dict[str, int]
    inputs: dict[str, Any]
    ready: Callable[[], bool] | None = None
    settled: Callable[[str, bool], None] | None = None

    @property
    def nbytes(self) -> int:
        """Memory that the record keeps alive."""
        size = 0
        for value in self.inputs.values():
            # Asking a model for a field that it lacks is slow, and the engine's thread waits for this.
            if value is not RANDOM:
                size += getattr(value, "nbytes", 0)
        return size
