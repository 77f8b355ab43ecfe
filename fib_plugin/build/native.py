"""Compiles C++ and CUDA solutions (bindings tvm-ffi and torch) and loads what was compiled.

The compiler runs in a process of its own (`fib_plugin.build.compile`), so a host engine's environment, memory and
threads stay out of it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fib_plugin.build.error import BuildError
from fib_plugin.schema import Binding, Language, Solution

_UNITS = {".c", ".cc", ".cpp", ".cxx", ".cu"}
_TIMEOUT_S = 900.0
#: No -ffast-math: it would let a compiler drop the NaN and Inf handling that correctness checks rely on.
_CFLAGS = ("-O3", "-march=native", "-fopenmp")
_CUDA_FLAGS = ("-O3", "--expt-relaxed-constexpr", "--expt-extended-lambda")
_LDFLAGS = ("-fopenmp",)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What turns sources into a library on this host; equal fingerprints make interchangeable libraries."""

    fingerprint: str
    environment: dict[str, str]


def toolchain(solution: Solution) -> Toolchain:
    """The toolchain for ``solution``'s language and binding.

    Raises:
        BuildError: something is missing; the message names the remedy.
    """
    binding = _binding(solution)
    environment = _environment()
    compiler = os.environ.get("CXX") or "c++"
    parts = [binding.value, _describe(compiler, environment["PATH"]), _cpu(), *_CFLAGS]
    package = "apache-tvm-ffi" if binding is Binding.TVM_FFI else "torch"
    parts.append(f"{package} {_installed(package, solution)}")
    if binding is Binding.TORCH:
        parts.append(sys.implementation.cache_tag or platform.python_version())
    if shutil.which("ninja", path=environment["PATH"]) is None:
        raise BuildError(f"{solution.name}: ninja is not installed", remedy="pip install ninja")
    if _has_cuda(solution):
        parts += [_cuda(solution, environment), *_CUDA_FLAGS]
    return Toolchain(hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12], environment)


def compile_sources(solution: Solution, folder: Path, tools: Toolchain) -> None:
    """Compile ``folder``/src into one shared library in ``folder``.

    Raises:
        BuildError: with the compiler's log.
    """
    source = folder / "src"
    units = sorted(str(path) for path in source.rglob("*") if path.suffix in _UNITS)
    if not units:
        raise BuildError(
            f"{solution.name}: no source ends in {', '.join(sorted(_UNITS))}",
            remedy="rename the sources",
        )
    scratch = folder / "scratch"
    scratch.mkdir()
    order = {
        "binding": _binding(solution).value,
        "name": "fib_" + hashlib.sha256("".join(s.content for s in solution.sources).encode()).hexdigest()[:16],
        "sources": units,
        "include": str(source),
        "cflags": list(_CFLAGS),
        "cuda_flags": list(_CUDA_FLAGS),
        "ldflags": list(_LDFLAGS),
        "folder": str(scratch),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fib_plugin.build.compile"],
            input=json.dumps(order),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            env=tools.environment,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(
            f"{solution.name}: the compiler did not end within {_TIMEOUT_S:.0f} s",
            remedy="split or simplify the source",
        ) from error
    libraries = sorted(scratch.glob("*.so"))
    if done.returncode or len(libraries) != 1:
        log = done.stdout.replace(str(source) + os.sep, "").strip()
        raise BuildError(
            f"{solution.name}: {solution.spec.language.value} sources do not compile",
            log=log,
        )
    os.rename(libraries[0], folder / libraries[0].name)
    shutil.rmtree(scratch, ignore_errors=True)


def load(solution: Solution, folder: Path) -> tuple[Callable[..., Any], Any]:
    """The entry function of the library in ``folder``, and what keeps it loaded.

    Raises:
        BuildError: the library cannot be loaded or does not export the entry symbol.
    """
    import torch  # noqa: F401  (first, so that the library's OpenMP symbols resolve to torch's own runtime)

    library = next(folder.glob("*.so"))
    try:
        if _binding(solution) is Binding.TVM_FFI:
            return _tvm_ffi_function(library, solution.spec.entry_symbol)
        return _torch_function(library, solution.spec.entry_symbol)
    except BuildError as error:
        raise BuildError(f"{solution.name}: {error.problem}", remedy=error.remedy) from None
    except Exception as error:
        raise BuildError(f"{solution.name}: the compiled library cannot be loaded: {error}") from error


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


def _binding(solution: Solution) -> Binding:
    return solution.spec.binding or Binding.TVM_FFI


def _has_cuda(solution: Solution) -> bool:
    return solution.spec.language is Language.CUDA or any(s.path.endswith(".cu") for s in solution.sources)


def _environment() -> dict[str, str]:
    """Ours, with the tools beside the interpreter on the path: they are there even when no environment is active."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    return {**os.environ, "PATH": path}


def _describe(compiler: str, path: str) -> str:
    program = shutil.which(compiler.split()[0], path=path)
    if program is None:
        raise BuildError(
            f"the C++ compiler {compiler!r} is not installed",
            remedy="install g++ (Debian, Ubuntu: apt-get install g++), or set CXX to a compiler you have",
        )
    return _first_line(program, "--version")


@functools.lru_cache(maxsize=8)
def _first_line(program: str, flag: str) -> str:
    done = subprocess.run([program, flag], capture_output=True, text=True, errors="replace", timeout=60, check=False)
    return done.stdout.strip() if done.returncode == 0 else program


@functools.lru_cache(maxsize=1)
def _cpu() -> str:
    # -march=native: a cache in a shared home must not hand one host's instructions to another.
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _installed(package: str, solution: Solution) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise BuildError(
            f"{solution.name}: the binding needs {package}, which is not installed",
            remedy=f"pip install {package}",
        ) from None


def _cuda(solution: Solution, environment: dict[str, str]) -> str:
    import torch

    if torch.version.cuda is None or not torch.cuda.is_available():
        raise BuildError(
            f"{solution.name}: a CUDA solution needs a CUDA device and a torch built for it; this host has none",
            remedy="run it on a GPU host",
        )
    home = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    nvcc = str(Path(home) / "bin" / "nvcc") if home else shutil.which("nvcc", path=environment["PATH"])
    if not nvcc or not Path(nvcc).exists():
        raise BuildError(
            f"{solution.name}: nvcc is not installed",
            remedy="install the CUDA toolkit and set CUDA_HOME to it",
        )
    return f"{_first_line(nvcc, '--version')}\n{torch.cuda.get_device_capability()}"
