"""The reference of a definition, as a callable. The referee's process runs it; no solution ever runs there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fib_plugin.schema import Definition


class BrokenReference(RuntimeError):
    """A reference that does not run or does not keep its own definition; the message names the definition."""


class Reference:
    """``definition.reference``, compiled once."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        scope: dict[str, Any] = {"__name__": f"reference_of_{definition.name}"}
        try:
            exec(compile(definition.reference, f"<reference of {definition.name}>", "exec"), scope)
            self._run = scope["run"]
        except Exception as error:
            raise BrokenReference(f"the reference of {definition.name} cannot be loaded: {error!r}") from error

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs as tensors in the definition's order. The reference gets ``inputs`` themselves, and may change them.

        Raises:
            BrokenReference: it raised, or returned another number of values than the definition has outputs.
        """
        name = self.definition.name
        try:
            return self._outputs(inputs)
        except Exception as error:
            raise BrokenReference(f"the reference of {name} failed: {type(error).__name__}: {error}") from error

    def _outputs(self, inputs: Sequence[Any]) -> list[Any]:
        import torch

        wanted = self.definition.outputs
        with torch.inference_mode():
            result = self._run(*inputs)
        if isinstance(result, dict):
            result = tuple(result[output] for output in wanted)
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        if len(results) != len(wanted):
            raise ValueError(f"it returns {len(results)} values, the definition has {len(wanted)} outputs")
        return [
            value.detach().as_subclass(torch.Tensor)
            if isinstance(value, torch.Tensor)
            else torch.tensor(value, dtype=getattr(torch, str(spec.dtype)))
            for value, spec in zip(results, wanted.values(), strict=True)
        ]
