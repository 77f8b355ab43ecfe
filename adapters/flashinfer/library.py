"""FlashInfer as its adapters know it, and when they keep out of the way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import torch
from fib_plugin.adapters.live.nesting import inside, within

from fib_plugin import ops
from fib_plugin.adapter import Adapter, Engine
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

FLASHINFER = Engine("flashinfer", ("flashinfer-python",))

#: Versions whose interfaces the targets were read from.
VERSIONS = ">=0.6.11,<0.8"


class LibraryAdapter(Adapter):
    """An adapter of the library.

    A serving engine's adapter sees the same op from above and knows more of it: where one is in place for a family,
    the library's adapter of that family neither counts nor substitutes, or a call would be there twice. It also keeps
    out of calls that the library, an engine or a solution makes while an op is looked at (see live/nesting.py), of
    whatever family, and of those that a compiler traces.
    """

    engine = FLASHINFER
    #: File with the library's own op.
    op_text: str

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._modules = 0
        self._aside = False

    def displaced(self, definition: Definition) -> str:
        text = files("fib_plugin.adapters.flashinfer").joinpath("displaced", f"{self.op_text}.py").read_text()
        return ops.fill_constants(text, ops.constants(definition), f"displaced/{self.op_text}.py")

    def ours(self) -> bool:
        """Whether a call is for this adapter to look at."""
        # A compiler that traces must come past nothing but this question.
        if not self.live or torch.compiler.is_compiling() or inside():
            return False
        # An engine's adapter comes into place when its module is imported, and only then.
        if len(sys.modules) != self._modules:
            self._modules = len(sys.modules)
            self._aside = self._covered()
        return not self._aside

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The library's own op or a look at a call: what is called of the library meanwhile is not looked at."""
        return within(call, *args, **kwargs)

    def _covered(self) -> bool:
        placed = {target["adapter"] for target in self.runtime.describe_targets() if target["state"] == "patched"}
        return any(
            name in placed
            and other.engine.name != FLASHINFER.name
            and not set(self.families).isdisjoint(other.families)
            for name, other in self.runtime.adapters.items()
        )


def plain(**given: Any) -> bool:
    """Whether every argument is what it is when nobody gives it."""
    return all(value is None or value is False for value in given.values())


def answered(result: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """The result where the caller wants it."""
    if out is None:
        return result
    out.copy_(result.view(out.shape))
    return out
