"""TimingSets: the input sets that timed calls rotate through, and what the parent knows to be in them.

Between bursts the parent changes some rows of every set, so that no timed call finds inputs that it has seen before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fib_plugin.bench.blob import Blob, byte_rows, changed, fill, plan, poison
from fib_plugin.bench.wire import Layout, TensorArg

if TYPE_CHECKING:
    import torch

_SWAPS = 4
_Rows = np.ndarray[Any, Any]


class TimingSets:
    """Sets in a blob, equal private copies of them, and room for the outputs of one call."""

    def __init__(self, name: str, sets: Sequence[Sequence[Any]], forms: Sequence[tuple[Any, Sequence[int]]]) -> None:
        self.name = name
        self.inputs = [[_contiguous(value) for value in inputs] for inputs in sets]
        self.layouts: list[Layout] = []
        for inputs in sets:
            self.layouts.append(plan(inputs, [], self.layouts[-1].size if self.layouts else 0))
        self.output = plan([], forms, self.layouts[-1].size)
        self.blob = Blob(self.output.size)
        for index in range(len(self.inputs)):
            self.refill(index)
        self._rows = [self._swappable(index) for index in range(len(self.inputs))]

    def __len__(self) -> int:
        return len(self.inputs)

    def refill(self, index: int) -> None:
        """Write the known contents of a set again."""
        fill(self.blob, self.layouts[index], self.inputs[index])

    @contextlib.contextmanager
    def lent(self, index: int, inputs: Sequence[Any]) -> Iterator[None]:
        """Other contents for a set, at the same addresses, for as long as the context lasts."""
        own, self.inputs[index] = self.inputs[index], list(inputs)
        self.refill(index)
        try:
            yield
        finally:
            self.inputs[index] = own
            self.refill(index)

    def touch(self, index: int, draw: np.random.Generator) -> dict[int, list[int]]:
        """Swap a few rows of each tensor of numbers: as likely inputs as before, and other ones.

        Returns which rows of which inputs are other ones now.
        """
        touched: dict[int, list[int]] = {}
        for place, mine, shared in self._rows[index]:
            swapped: set[int] = set()
            for a, b in draw.integers(0, len(mine), (min(_SWAPS, len(mine)), 2)).tolist():
                if a != b:
                    mine[[a, b]] = mine[[b, a]]
                    shared[a], shared[b] = mine[a], mine[b]
                    swapped |= {a, b}
            if swapped:
                touched[place] = sorted(swapped)
        return touched

    def written(self, index: int) -> list[int]:
        """Which inputs of a set no longer hold what the parent wrote."""
        return changed(self.blob, self.layouts[index], self.inputs[index])

    def poison(self) -> None:
        """Make the room for outputs hold what no right answer is."""
        poison(self.blob, self.output)

    def outputs(self, count: int) -> list[torch.Tensor]:
        return [self.blob.tensor(place).clone() for place in self.output.outputs[:count]]

    def close(self) -> None:
        self._rows = []
        self.blob.close()

    def _swappable(self, index: int) -> list[tuple[int, _Rows, _Rows]]:
        """Of each tensor of numbers: its place, rows of the private copy and of the blob, as bytes."""
        found = []
        for number, (place, mine) in enumerate(zip(self.layouts[index].inputs, self.inputs[index], strict=True)):
            if isinstance(place, TensorArg) and mine.is_floating_point() and mine.numel() > 1:
                assert mine.is_contiguous()
                found.append((number, byte_rows(mine).numpy(), byte_rows(self.blob.tensor(place)).numpy()))
        return found


def _contiguous(value: Any) -> Any:
    return value.contiguous() if hasattr(value, "contiguous") else value
