"""`build` and what goes with it: picks the language's loader, lays sources out in the cache, resolves the convention.

Bench precompiles, engines ask `ready` first; both then build.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from fib_plugin.build import native, python
from fib_plugin.build.cache import BuildCache
from fib_plugin.build.error import BuildError
from fib_plugin.build.runnable import Runnable
from fib_plugin.build.shipped import is_shipped
from fib_plugin.build.toolchain import Toolchain, toolchain
from fib_plugin.schema import ENGINE_AUTHOR, Definition, Language, Solution

_INTERPRETED = (Language.PYTHON, Language.TRITON)
_COMPILED = (Language.CPP, Language.CUDA)


def build(solution: Solution, definition: Definition, cache: Path | None = None) -> Runnable:
    """A callable for ``solution``, ready for hot use: the convention is resolved here, not per call.

    May take a minute, where a compiler must run: an engine asks `ready` first. A build that failed for good fails
    again at once, in every process, until the sources or the toolchain change or `precompile` is told to retry.

    Args:
        solution: what to build.
        definition: what it computes; fixes the order of inputs and outputs and the shapes to allocate.
        cache: folder for build products; None takes FIB_CACHE_PATH.

    Raises:
        BuildError: the solution cannot be built here; the message says why and carries the log.
    """
    _check_meant(solution, definition)
    return load(solution, definition, lay_down(solution, cache))


def load(solution: Solution, definition: Definition, folder: Path) -> Runnable:
    """As `build`, from the ``folder`` that `lay_down` returned, maybe in another process; writes nothing there.

    Raises:
        BuildError: as `build`.
    """
    _check_meant(solution, definition)
    if solution.spec.language in _INTERPRETED:
        function, keep = python.load(solution, definition, folder), None
    else:
        try:
            function, keep = native.load(solution, folder)
        except BuildError as error:
            raise error.of(solution.name) from error.__cause__
    runnable = Runnable.resolve(solution, definition, function, keep)
    if solution.author == ENGINE_AUTHOR and is_shipped(solution, definition):
        module = sys.modules.get(function.__module__)
        runnable.setup, runnable.toll = getattr(module, "setup", None), getattr(module, "toll", None)
    return runnable


def _check_meant(solution: Solution, definition: Definition) -> None:
    if solution.definition != definition.name:
        raise BuildError(f"{solution.name} solves {solution.definition}, not {definition.name}")


def precompile(solution: Solution, cache: Path | None = None, retry: bool = False) -> None:
    """Compile ``solution`` into the cache without loading any of its code; nothing to do for interpreted languages.

    Args:
        solution: what to compile.
        cache: as for `build`.
        retry: run the compiler although it is on record that it refused these sources.

    Raises:
        BuildError: as `build`.
    """
    if solution.spec.language in _COMPILED:
        try:
            _compiled(solution, cache, retry)
        except BuildError as error:
            raise error.of(solution.name) from error.__cause__


def lay_down(solution: Solution, cache: Path | None = None) -> Path:
    """Have all that `build` reads lie in the cache, for a process that may not write there; the folder it lies in.

    Compiles what must be compiled. None of the solution's code is loaded.

    Raises:
        BuildError: as `build`.
    """
    language = solution.spec.language
    if language in _INTERPRETED:
        return _laid_out(solution, cache)
    if language not in _COMPILED:
        raise BuildError(
            f"{solution.name}: no builder for the language {language.value}",
            remedy=f"use one of {', '.join(known.value for known in _INTERPRETED + _COMPILED)}",
        )
    try:
        return _compiled(solution, cache)
    except BuildError as error:
        raise error.of(solution.name) from error.__cause__


def ready(solution: Solution, cache: Path | None = None) -> bool:
    """Whether `build` answers without running a compiler: with a callable, or with the error that it would raise.

    Never raises. Costs under a millisecond, plus what the first question of a process costs: the compiler's version
    (a few ms), and for CUDA that torch must know the device, which initialises it. Compares names and sizes of the
    files in the cache and reads none of them; `build` does, and compiles again what was damaged.
    """
    try:
        if solution.spec.language not in _COMPILED:
            return True
        return _cache(cache).settled(_key(solution, toolchain(solution)))
    except BuildError:  # no compiler, no device: building fails at once
        return True
    except Exception:
        return False


def _laid_out(solution: Solution, cache: Path | None) -> Path:
    return _cache(cache).folder(f"{artifact(solution)}-python", lambda target: lay_out(solution, target))


def _compiled(solution: Solution, cache: Path | None, retry: bool = False) -> Path:
    tools = toolchain(solution)

    def fill(target: Path) -> None:
        lay_out(solution, target)
        native.compile_sources(solution, target, tools)

    return _cache(cache).folder(_key(solution, tools), fill, toolchain=tools.description, retry=retry)


def _key(solution: Solution, tools: Toolchain) -> str:
    return f"{artifact(solution)}-{tools.fingerprint}"


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
