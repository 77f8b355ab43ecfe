"""`build`: picks the language's loader, lays the sources out in the cache and resolves the calling convention."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from fib_plugin.build import native, python
from fib_plugin.build.cache import BuildCache
from fib_plugin.build.error import BuildError
from fib_plugin.build.runnable import Runnable
from fib_plugin.schema import Definition, Language, Solution

#: Author of the solutions that hold an engine's own op.
ENGINE_AUTHOR = "engine"

_INTERPRETED = (Language.PYTHON, Language.TRITON)
_COMPILED = (Language.CPP, Language.CUDA)


def build(solution: Solution, definition: Definition, cache: Path | None = None) -> Runnable:
    """A callable for ``solution``, ready for hot use: the convention is resolved here, not per call.

    Args:
        solution: what to build.
        definition: what it computes; fixes the order of inputs and outputs and the shapes to allocate.
        cache: folder for build products; None takes FIB_CACHE_PATH.

    Raises:
        BuildError: the solution cannot be built here; the message says why and carries the log.
    """
    if solution.definition != definition.name:
        raise BuildError(f"{solution.name} solves {solution.definition}, not {definition.name}")
    language = solution.spec.language
    if language in _INTERPRETED:
        folder = _cache(cache).folder(f"{artifact(solution)}-python", lambda target: lay_out(solution, target))
        function, keep = python.load(solution, definition, folder), None
    elif language in _COMPILED:
        function, keep = native.load(solution, _compiled(solution, cache))
    else:
        raise BuildError(
            f"{solution.name}: no builder for the language {language.value}",
            remedy=f"use one of {', '.join(known.value for known in _INTERPRETED + _COMPILED)}",
        )
    runnable = Runnable.resolve(solution, definition, function, keep)
    if solution.author == ENGINE_AUTHOR:
        module = sys.modules.get(function.__module__)
        runnable.setup, runnable.toll = getattr(module, "setup", None), getattr(module, "toll", None)
    return runnable


def precompile(solution: Solution, cache: Path | None = None) -> None:
    """Compile ``solution`` into the cache without loading any of its code; nothing to do for interpreted languages.

    Raises:
        BuildError: as `build`.
    """
    if solution.spec.language in _COMPILED:
        _compiled(solution, cache)


def _compiled(solution: Solution, cache: Path | None) -> Path:
    toolchain = native.toolchain(solution)

    def fill(target: Path) -> None:
        lay_out(solution, target)
        native.compile_sources(solution, target, toolchain)

    return _cache(cache).folder(f"{artifact(solution)}-{toolchain.fingerprint}", fill)


def artifact(solution: Solution) -> str:
    """Names a build product: equal sources share one, whichever definition they are meant for."""
    content = [
        solution.spec.language.value,
        solution.spec.binding.value if solution.spec.binding else None,
        sorted((source.path, source.content) for source in solution.sources),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def lay_out(solution: Solution, target: Path) -> None:
    """Write the sources under ``target``/src."""
    root = target / "src"
    for source in solution.sources:
        path = root / source.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source.content, encoding="utf-8")


def _cache(cache: Path | None) -> BuildCache:
    if cache is None:
        from fib_plugin import settings

        cache = settings.load().cache_path
    return BuildCache(cache / "build")
