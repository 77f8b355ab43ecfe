"""TimingSets: the input sets that timed calls rotate through, and what the parent knows to be in them.

Between bursts the parent changes all rows of every set, and in a burst each set is used once at most: no timed call
finds inputs that it has seen before.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fib_plugin.bench.blob import Blob, array_of, changed, fill, plan, poison, view_of
from fib_plugin.bench.wire import Layout, TensorArg

if TYPE_CHECKING:
    import torch

_SWAPS = 4
#: Of a tensor so many rows at least and at most get another element, and one for so many bytes of a set: whoever calls
#: waits for it, and calls on large sets are slow.
_FEWEST_ROWS, _MOST_ROWS, _BYTES_PER_ROW = 256, 8192, 8192
_Array = np.ndarray[Any, Any]


class TimingSets:
    """Sets of equal forms in a blob, equal private copies of them, and room for the outputs of one call."""

    def __init__(self, name: str, sets: Sequence[Sequence[Any]], forms: Sequence[tuple[Any, Sequence[int]]]) -> None:
        self.name = name
        self._forms = forms
        self.layouts: list[Layout] = []
        for inputs in sets:
            self.layouts.append(plan(inputs, [], self.layouts[-1].size if self.layouts else 0))
        self._mirror = np.zeros(max(self.layouts[-1].size, 1), np.uint8)
        self.inputs: list[list[Any]] = [
            [view_of(self._mirror, place) if isinstance(place, TensorArg) else place.value for place in layout.inputs]
            for layout in self.layouts
        ]
        for mine, inputs in zip(self.inputs, sets, strict=True):
            for target, value in zip(mine, inputs, strict=True):
                if hasattr(target, "copy_"):
                    target.copy_(value)
        self._share()

    def _share(self) -> None:
        """Lay the sets into a blob of this object's own."""
        self.output = plan([], self._forms, self.layouts[-1].size)
        self.blob = Blob(self.output.size)
        for index in range(len(self.inputs)):
            self.refill(index)
        self._rows = self._swappable()

    def twin(self, name: str) -> TimingSets:
        """The same private copies, in a blob of its own: what one child writes there the other does not see."""
        twin = copy.copy(self)
        twin.name, twin.inputs = name, list(self.inputs)
        twin._share()
        return twin

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

    def touch(
        self, indices: Sequence[int], draw: np.random.Generator, swap: bool = True
    ) -> list[dict[int, list[int] | None]]:
        """Swap a few rows of each tensor of numbers, and two elements of each row: as likely inputs as before.

        Answers that were kept by row are wrong then, and whoever wants to know which ones must read all of a row. Of
        tensors with very many rows only some change.

        Without ``swap`` as much is written, and nothing is another one for it.

        Returns, of each of the sets ``indices``, which rows of which inputs are other ones now; None where it may be
        any.
        """
        sets = np.asarray(indices, dtype=np.intp)
        touched: list[dict[int, list[int] | None]] = [{} for _ in indices]
        most = min(_MOST_ROWS, max(_FEWEST_ROWS, self.layouts[0].size // _BYTES_PER_ROW))
        for place, mine, shared in self._rows:
            _, rows, width = mine.shape
            swapped = draw.integers(0, rows, (2, min(_SWAPS, rows), len(sets)))
            for one, other in zip(*swapped, strict=True) if swap else ():
                kept = mine[sets, one]
                mine[sets, one] = mine[sets, other]
                mine[sets, other] = kept
            changed = [swapped.reshape(-1, len(sets)).T]
            if width > 1:
                changed.append(_swap_elements(mine, shared, sets, most, draw, swap))
            for row in swapped.reshape(-1, len(sets)):
                shared[sets, row] = mine[sets, row]
            for found, among in zip(touched, np.concatenate(changed, axis=1), strict=True):
                found[place] = None if width > 1 and rows <= most else np.unique(among).tolist()
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

    def _swappable(self) -> list[tuple[int, _Array, _Array]]:
        """Of each tensor of numbers: its place, and the elements of all sets, in the mirror and in the blob."""
        found = []
        first, count = self.layouts[0], len(self.layouts)
        for number, (place, mine) in enumerate(zip(first.inputs, self.inputs[0], strict=True)):
            if isinstance(place, TensorArg) and mine.is_floating_point() and mine.numel() > 1:
                own = array_of(self._mirror, place, count, first.size)
                found.append((number, own, self.blob.array(place, count, first.size)))
        return found


def varied(inputs: Sequence[Any], draw: np.random.Generator) -> list[Any]:
    """As likely inputs with other contents, by `TimingSets.touch`; integers and single numbers stay what they are."""
    sets = TimingSets("", [inputs], [])
    sets.touch([0], draw)
    found = [value.clone() if hasattr(value, "clone") else value for value in sets.inputs[0]]
    sets.close()
    return found


def _swap_elements(
    mine: _Array, shared: _Array, sets: _Array, most: int, draw: np.random.Generator, swap: bool
) -> _Array:
    """In ``most`` rows of each of the ``sets`` swap two elements; which rows, [sets, rows]."""
    _, rows, width = mine.shape
    step = -(-rows // most)
    # One of each ``step`` rows, so that none comes twice.
    at = draw.integers(0, step) + step * np.arange(rows // step)
    chosen = np.broadcast_to(at, (len(sets), len(at)))
    where = sets[:, None]
    first = draw.integers(0, width, chosen.shape)
    second = (first + draw.integers(1, width, chosen.shape)) % width
    if swap:
        kept = mine[where, chosen, first]
        mine[where, chosen, first] = mine[where, chosen, second]
        mine[where, chosen, second] = kept
    shared[where, chosen, first] = mine[where, chosen, first]
    shared[where, chosen, second] = mine[where, chosen, second]
    return chosen
