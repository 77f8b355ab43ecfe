"""Whether a source is an engine's op as an installed adapter ships it. Only such a source may prepare untimed.

A solution's author is what the solution says of itself; its text can be compared with what is installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import lru_cache
from pathlib import Path

from fib_plugin.schema import Definition, Solution


def is_shipped(solution: Solution, definition: Definition) -> bool:
    """Whether ``solution`` consists of one text of an installed adapter's ``displaced`` folder, its marks filled in."""
    if len(solution.sources) != 1 or solution.definition != definition.name:
        return False
    return solution.sources[0].content in _filled(definition)


def _filled(definition: Definition) -> set[str]:
    from fib_plugin import ops

    constants = ops.constants(definition)
    found = set()
    for file, text in _texts():
        try:
            found.add(ops.fill_constants(text, constants, file))
        except ops.MarkError:  # an op of another family
            continue
    return found


@lru_cache(maxsize=1)
def _texts() -> tuple[tuple[str, str], ...]:
    files = [file for folder in _folders() for file in sorted((folder / "displaced").glob("*.py"))]
    return tuple((str(file), file.read_text(encoding="utf-8")) for file in files)


def _folders() -> list[Path]:
    """Where the packages of the installed adapters lie; nothing of them is imported."""
    found = []
    for entry in importlib.metadata.entry_points(group="fib_plugin.adapters"):
        try:
            spec = importlib.util.find_spec(entry.module)
        except (ImportError, ValueError):
            continue
        if spec is not None and spec.submodule_search_locations:
            found += [Path(location) for location in spec.submodule_search_locations]
    return found
