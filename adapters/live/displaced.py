"""Engines' own ops as text: the file of an op with the constants of one definition filled in."""

from __future__ import annotations

from importlib.resources import files

from fib_plugin import ops
from fib_plugin.schema import Definition


def displaced_source(package: str, name: str, definition: Definition) -> str:
    """The text of ``displaced/<name>.py`` in an engine's adapter package, for ``definition``."""
    text = files(package).joinpath("displaced", f"{name}.py").read_text()
    return ops.fill_constants(text, ops.constants(definition), f"displaced/{name}.py")
