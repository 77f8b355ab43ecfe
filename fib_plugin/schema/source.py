"""Python source as a tree, in processes whose other threads parse, too."""

from __future__ import annotations

import ast
from typing import Literal

#: Clashes in a row are rarer with each.
_TRIES = 20


def parse_source(source: str, mode: Literal["exec", "eval"] = "exec") -> ast.AST:
    """``ast.parse``, again where another thread parsed at the same moment.

    CPython 3.11 keeps the depth of the tree that it builds where all threads share it, and raises SystemError
    ("AST constructor recursion depth mismatch") when two build trees at once: a definition that the writer's thread
    reads would keep the engine's thread from making its own.

    Raises:
        SyntaxError, ValueError: it is not Python.
        SystemError: every try failed.
    """
    for _ in range(_TRIES - 1):
        try:
            return ast.parse(source, mode=mode)
        except SystemError:
            continue
    return ast.parse(source, mode=mode)
