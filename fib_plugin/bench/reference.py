"""The reference of a definition, run by the judging side only; one class, so that it can move to its own process."""

from __future__ import annotations

import time
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

    def __call__(self, inputs: Sequence[Any]) -> tuple[list[Any], float]:
        """Outputs as tensors in the definition's order, and the seconds it took. ``inputs`` are not changed."""
        import torch

        private = [value.clone() if isinstance(value, torch.Tensor) else value for value in inputs]
        name = self.definition.name
        try:
            with torch.inference_mode():
                start = time.perf_counter()
                result = self._run(*private)
                seconds = time.perf_counter() - start
        except Exception as error:
            raise BrokenReference(f"the reference of {name} failed: {type(error).__name__}: {error}") from error
        if isinstance(result, dict):
            result = tuple(result[output] for output in self.definition.outputs)
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        if len(results) != len(self.definition.outputs):
            raise BrokenReference(
                f"the reference of {name} returns {len(results)} values, it has {len(self.definition.outputs)} outputs"
            )
        return [
            value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=getattr(torch, str(spec.dtype)))
            for value, spec in zip(results, self.definition.outputs.values(), strict=True)
        ], seconds
