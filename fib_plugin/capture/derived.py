"""Derived: inputs of a call that are made of smaller tensors, for the writer's thread to make.

What an engine keeps in compact form (a block table) need not be spread out on its own thread: the recorder copies the
compact form before the call returns, the archive makes the inputs of the copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Recipe:
    """How some inputs of one call are made of ``sources``.

    Args:
        make: takes what ``sources`` names, must not look at anything else that the engine may change.
    """

    __slots__ = ("make", "sources")

    def __init__(self, make: Callable[..., tuple[Any, ...]], **sources: Any) -> None:
        self.make = make
        self.sources = sources

    def made(self) -> tuple[Any, ...]:
        """All inputs; costs as much every time."""
        return self.make(**self.sources)


class Derived:
    """One of a recipe's inputs: its shape is known, its data is not made yet."""

    __slots__ = ("index", "recipe", "shape")

    def __init__(self, recipe: Recipe, index: int, shape: tuple[int, ...]) -> None:
        self.recipe = recipe
        self.index = index
        self.shape = shape

    @property
    def nbytes(self) -> int:
        """Memory that it keeps alive; the sources count once, with the first input."""
        return 0 if self.index else sum(getattr(value, "nbytes", 0) for value in self.recipe.sources.values())
