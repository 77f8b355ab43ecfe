"""Compiles C++ and CUDA solutions (bindings tvm-ffi and torch) and loads what was compiled. The builder calls it.

The compiler runs in a process of its own (`fib_plugin.build.compile`), so a host engine's environment, memory and
threads stay out of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any

from fib_plugin.build.error import BuildError
from fib_plugin.build.toolchain import CFLAGS, CUDA_FLAGS, LDFLAGS, Toolchain, binding_of
from fib_plugin.schema import Binding, Solution

#: Seconds for one solution's compiler.
TIMEOUT_S = 900.0
_PATIENCE_S = 5.0
_UNITS = {".c", ".cc", ".cpp", ".cxx", ".cu"}
#: What ninja says when a compiler or linker refused its input, and did not go missing or astray.
_REFUSED = re.compile(r"^FAILED: ", re.MULTILINE)
#: Mishaps: the same sources may compile next time. Exit codes from 126 on are the shell's (no such program, killed).
_MISHAPS = re.compile(
    r"\bkilled\b|died due to signal|terminated by signal|terminated program|No space left|Disk quota exceeded"
    r"|out of memory|Cannot allocate memory|virtual memory exhausted|Read-only file system|Input/output error"
    r"|Permission denied|not found$|command not found|nvcc fatal|interrupted by user|code=(?:12[6-9]|1[3-9]\d|2\d\d)\b",
    re.IGNORECASE | re.MULTILINE,
)


def compile_sources(solution: Solution, folder: Path, tools: Toolchain) -> None:
    """Compile ``folder``/src into one shared library in ``folder``.

    Raises:
        BuildError: with the compiler's log.
    """
    source = folder / "src"
    units = sorted(str(path) for path in source.rglob("*") if path.suffix in _UNITS)
    if not units:
        raise BuildError(f"no source ends in {', '.join(sorted(_UNITS))}", remedy="rename the sources", lasting=True)
    scratch = folder / "scratch"
    scratch.mkdir()
    order = {
        "binding": binding_of(solution).value,
        "name": "fib_" + hashlib.sha256("".join(s.content for s in solution.sources).encode()).hexdigest()[:16],
        "sources": units,
        "include": str(source),
        "cflags": list(CFLAGS),
        "cuda_flags": list(CUDA_FLAGS),
        "ldflags": list(LDFLAGS),
        "folder": str(scratch),
    }
    code, said = _run(order, tools.environment)
    libraries = sorted(scratch.glob("*.so"))
    if code or len(libraries) != 1:
        log = said.replace(str(source) + os.sep, "").strip()
        refused = code == 1 and _REFUSED.search(log) is not None and _MISHAPS.search(log) is None
        raise BuildError(
            f"{solution.spec.language.value} sources do not compile",
            log=log,
            remedy="mend the sources, or the toolchain" if refused else "",
            lasting=refused,
        )
    os.rename(libraries[0], folder / libraries[0].name)
    shutil.rmtree(scratch, ignore_errors=True)


def _run(order: dict[str, Any], environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of the compiling process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fib_plugin.build.compile"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    )
    try:
        said, _ = process.communicate(json.dumps(order), timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise BuildError(
            f"the compiler did not end within {TIMEOUT_S:.0f} s", remedy="split or simplify the source"
        ) from error
    finally:
        if process.poll() is None:
            process.terminate()  # it ends the compilers that it started
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE_S)
            process.kill()
            process.wait()
    return process.returncode, said


def load(solution: Solution, folder: Path) -> tuple[Callable[..., Any], Any]:
    """The entry function of the library in ``folder``, and what keeps it loaded.

    Raises:
        BuildError: the library cannot be loaded or does not export the entry symbol.
    """
    import torch  # noqa: F401  (first, so that the library's OpenMP symbols resolve to torch's own runtime)

    library = next(folder.glob("*.so"))
    try:
        if binding_of(solution) is Binding.TVM_FFI:
            return _tvm_ffi_function(library, solution.spec.entry_symbol)
        return _torch_function(library, solution.spec.entry_symbol)
    except BuildError:
        raise
    except Exception as error:
        raise BuildError(f"the compiled library cannot be loaded: {error}") from error


def _tvm_ffi_function(library: Path, symbol: str) -> tuple[Callable[..., Any], Any]:
    import tvm_ffi

    module = tvm_ffi.load_module(str(library))
    try:
        return module.get_function(symbol), module
    except AttributeError:
        raise BuildError(
            f"the library exports no {symbol!r}",
            remedy=f"export it: TVM_FFI_DLL_EXPORT_TYPED_FUNC({symbol}, your_function)",
        ) from None


def _torch_function(library: Path, symbol: str) -> tuple[Callable[..., Any], Any]:
    loader = ExtensionFileLoader(library.stem, str(library))
    spec = importlib.util.spec_from_file_location(library.stem, library, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    try:
        return getattr(module, symbol), module
    except AttributeError:
        raise BuildError(
            f"the library exports no {symbol!r}",
            remedy=f'export it: PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {{ m.def("{symbol}", &your_function); }}',
        ) from None
