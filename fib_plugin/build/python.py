"""Loads Python and Triton solutions: each becomes a package of its own name, so that solutions never see each other.

Files of one solution find each other by ``from .other import x`` and by plain ``import other``.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from fib_plugin.build.error import BuildError
from fib_plugin.schema import Definition, Language, Solution

_PREFIX = "fib_solution_"
_lock = threading.RLock()


def load(solution: Solution, definition: Definition, folder: Path) -> Callable[..., Any]:
    """Import the sources laid out under ``folder``/src and return the entry function.

    Raises:
        BuildError: with the traceback of the import, or because the entry point is wrong.
    """
    if solution.spec.language is Language.TRITON:
        _need_triton_target(solution)
    with _lock:
        module = _import_entry(solution, folder)
    function = getattr(module, solution.spec.entry_symbol, None)
    if not callable(function):
        known = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise BuildError(
            f"{solution.name}: {solution.spec.entry_file} has no function {solution.spec.entry_symbol!r}",
            remedy=f"name one of: {', '.join(known) or 'none is defined'}",
        )
    _check_arity(solution, definition, function)
    return function  # type: ignore[no-any-return]


def _import_entry(solution: Solution, folder: Path) -> ModuleType:
    package = _PREFIX + folder.name.split("-")[0]
    source = folder / "src" / solution.spec.entry_file
    parts = PurePosixPath(solution.spec.entry_file).with_suffix("").parts
    name = ".".join((package, *(part.replace(".", "_") for part in parts)))
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(source):
        return loaded
    siblings = frozenset(PurePosixPath(other.path).parts[0].removesuffix(".py") for other in solution.sources)
    try:
        _enter_package(
            package,
            source.parents[len(parts) - 1],
            siblings if len(solution.sources) > 1 else frozenset(),
        )
        for depth in range(2, len(parts) + 1):  # parents of an entry file in a subfolder
            importlib.import_module(".".join(name.split(".")[:depth]))
        spec = importlib.util.spec_from_file_location(name, source, loader=_loader(name, str(source)))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        for stale in [key for key in sys.modules if key == package or key.startswith(package + ".")]:
            del sys.modules[stale]
        raise BuildError(
            f"{solution.name}: {solution.spec.entry_file} cannot be imported: {type(error).__name__}: {error}",
            log=_traceback(error),
            remedy=_remedy(error),
        ) from error
    return module


def _enter_package(package: str, root: Path, siblings: frozenset[str]) -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if package not in sys.modules:
        module = ModuleType(package)
        module.__path__ = [str(root)]
        sys.modules[package] = module
    _siblings[package] = siblings


#: Package -> top-level names that a plain import inside it means its own files by.
_siblings: dict[str, frozenset[str]] = {}


class _Loader(SourceFileLoader):
    """Gives a module an ``__import__`` that looks among the solution's own files first, also for late imports."""

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.split(".")[0]
        vars(module)["__builtins__"] = {
            **vars(builtins),
            "__import__": functools.partial(_import, package, _siblings[package]),
        }
        super().exec_module(module)


def _loader(name: str, path: str) -> SourceFileLoader:
    # A solution of one file needs no lookup among its own, and so keeps the interpreter's import.
    return (_Loader if _siblings.get(name.split(".")[0]) else SourceFileLoader)(name, path)


def _import(
    package: str,
    siblings: frozenset[str],
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    top = name.partition(".")[0]
    if level or top not in siblings:
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    builtins.__import__(f"{package}.{name}", globals, locals, fromlist or ())
    return sys.modules[f"{package}.{name if fromlist else top}"]


class _Finder:
    """Finds the files of solutions with several sources; every other name is left to the next finder."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(_PREFIX):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _loader(name, spec.loader.path)
        return spec


def _traceback(error: BaseException) -> str:
    # The frames of this file and of importlib say nothing to the author of the solution.
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and frame.filename != __file__
    ]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)] if frames else []
    return "".join([*lines, *traceback.format_exception_only(type(error), error)]).rstrip()


def _remedy(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"install {error.name.split('.')[0]}, or drop the import"
    return ""


def _need_triton_target(solution: Solution) -> None:
    import torch

    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        raise BuildError(
            f"{solution.name}: Triton finds no GPU on this host",
            remedy="set TRITON_INTERPRET=1 before the process starts to run it in Triton's interpreter",
        )


def _check_arity(solution: Solution, definition: Definition, function: Callable[..., Any]) -> None:
    """A wrong calling convention is the most common mistake; say so before the first call does it badly."""
    wanted = [
        *definition.inputs,
        *(definition.outputs if solution.spec.destination_passing_style else ()),
    ]
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*wanted)
    except TypeError as error:
        style = solution.spec.destination_passing_style
        raise BuildError(
            f"{solution.name}: {solution.spec.entry_symbol}{signature} is called with ({', '.join(wanted)}): {error}",
            remedy="destination_passing_style is true, so outputs are passed after the inputs; "
            "take them, or set it to false and return the result"
            if style
            else "destination_passing_style is false, so only the inputs are passed and the result is returned",
        ) from error
