"""Canary: whether a solution wrote to its inputs, kept them, or hands out their memory."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Inputs up to this size are copied and can be put back; of larger ones (embeddings, cache pools) only a digest is
#: kept, since memory that warm-up takes is memory that the engine's cache does not get.
_WHOLE_BYTES = 64 << 20
_ROWS = 64


class Canary:
    """Holds what the inputs of one call were.

    Args:
        inputs: of the definition, in order.
        names: of the inputs.
        mutable: names of inputs that the op may overwrite; they are lent as copies.

    >>> canary = Canary(inputs)
    >>> result = run(*canary.lend())
    >>> canary.harm(outputs_of(result))      # [] when all is well
    """

    def __init__(self, inputs: Sequence[Any], names: Sequence[str], mutable: Sequence[str] = ()) -> None:
        import torch

        self._inputs = list(inputs)
        self._names = list(names)
        self._mutable = frozenset(i for i, name in enumerate(names) if name in mutable)
        self._tensors = [i for i, value in enumerate(inputs) if isinstance(value, torch.Tensor)]
        self._kept = {i: self._look(inputs[i]) for i in self._tensors}
        self._uses = {i: _uses(inputs[i]) for i in self._tensors}

    def lend(self) -> list[Any]:
        """The inputs as tensor objects of their own, on the same memory: nobody else holds these."""
        return [
            value.clone() if i in self._mutable else value.detach() if i in self._kept else value
            for i, value in enumerate(self._inputs)
        ]

    def harm(self, outputs: Sequence[Any]) -> list[str]:
        """What the call did that it may not; inputs that were written to are put back. Waits for the device."""
        found = []
        for i in self._tensors:
            tensor, before = self._inputs[i], self._kept[i]
            now = self._look(tensor)
            if not _equal(now, before):
                found.append(f"wrote to its input {self._names[i]}")
                if before.shape == tensor.shape:
                    tensor.detach().copy_(before)
        owned = {self._inputs[i].untyped_storage().data_ptr(): i for i in self._tensors if self._inputs[i].numel()}
        for output in outputs:
            at = owned.get(output.untyped_storage().data_ptr()) if output.numel() else None
            if at is not None:
                found.append(f"returns the memory of its input {self._names[at]}")
        return found

    def held(self) -> list[str]:
        """Inputs that somebody still refers to. Call it when result and lent tensors are gone."""
        kept = self._still_held()
        if kept:
            gc.collect()  # a cycle that nobody holds is no harm
            kept = self._still_held()
        return [f"keeps a reference to its input {self._names[i]}" for i in kept]

    def _still_held(self) -> list[int]:
        return [i for i in self._tensors if _uses(self._inputs[i]) > self._uses[i]]

    @staticmethod
    def _look(tensor: torch.Tensor) -> torch.Tensor:
        import torch

        plain = tensor.detach()
        size = plain.numel() * plain.element_size()
        if size <= _WHOLE_BYTES:
            return plain.clone()
        if plain.is_contiguous() and size % 4 == 0:
            return plain.view(-1).view(torch.int32).sum(dtype=torch.int64)
        return plain[:: max(1, plain.shape[0] // _ROWS)].clone()


def _uses(tensor: torch.Tensor) -> int:
    import torch

    count = getattr(torch._C, "_storage_Use_Count", None)
    return 0 if count is None else int(count(tensor.untyped_storage()._cdata))


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    import torch

    # Bit for bit: NaN stays NaN.
    left, right = a.contiguous().view(-1), b.contiguous().view(-1)
    return torch.equal(left.view(torch.uint8), right.view(torch.uint8))
