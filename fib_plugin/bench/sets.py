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
#: Of a tensor so many rows at least and at most get another element, and one for so many bytes of a set: whoever calls
#: waits for it, and calls on large sets are slow.
_FEWEST_ROWS, _MOST_ROWS, _BYTES_PER_ROW = 256, 8192, 8192
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
        self._bytes = self.layouts[0].size

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

    def touch(self, index: int, draw: np.random.Generator) -> dict[int, list[int] | None]:
        """Swap a few rows of each tensor of numbers, and two elements of each row: as likely inputs as before.

        Answers that were kept by row are wrong then, and whoever wants to know which ones must read all of a row. Of
        tensors with very many rows only some change.

        Returns which rows of which inputs are other ones now; None where it may be any.
        """
        touched: dict[int, list[int] | None] = {}
        most = min(_MOST_ROWS, max(_FEWEST_ROWS, self._bytes // _BYTES_PER_ROW))
        for place, mine, shared in self._rows[index]:
            rows, width = mine.shape
            swapped: set[int] = set()
            for a, b in draw.integers(0, rows, (min(_SWAPS, rows), 2)).tolist():
                if a != b:
                    mine[[a, b]] = mine[[b, a]]
                    shared[a], shared[b] = mine[a], mine[b]
                    swapped |= {a, b}
            if width > 1:
                chosen = np.arange(rows) if rows <= most else np.unique(draw.integers(0, rows, most))
                first = draw.integers(0, width, len(chosen))
                second = (first + draw.integers(1, width, len(chosen))) % width
                kept = mine[chosen, first]
                mine[chosen, first] = mine[chosen, second]
                mine[chosen, second] = kept
                shared[chosen, first], shared[chosen, second] = mine[chosen, first], mine[chosen, second]
                swapped |= set(chosen.tolist())
            if swapped:
                touched[place] = None if len(swapped) == rows else sorted(swapped)
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
        """Of each tensor of numbers: its place, rows of the private copy and of the blob, as integers of their size."""
        found = []
        for number, (place, mine) in enumerate(zip(self.layouts[index].inputs, self.inputs[index], strict=True)):
            if isinstance(place, TensorArg) and mine.is_floating_point() and mine.numel() > 1:
                assert mine.is_contiguous()
                kind = f"u{mine.element_size()}"
                rows = byte_rows(mine).numpy().view(kind)
                found.append((number, rows, byte_rows(self.blob.tensor(place)).numpy().view(kind)))
        return found


def _contiguous(value: Any) -> Any:
    return value.contiguous() if hasattr(value, "contiguous") else value
