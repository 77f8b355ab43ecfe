"""Toolchain: what turns C++ and CUDA sources into a library on this host, and for which processor.

The builder asks for it before every build: its fingerprint is part of the cache's key, its environment is what the
compiling process runs in.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fib_plugin.build.error import BuildError
from fib_plugin.schema import Binding, Language, Solution

#: No -ffast-math: it would let a compiler drop the NaN and Inf handling that correctness checks rely on.
CFLAGS = ("-O3", "-march=native", "-fopenmp")
CUDA_FLAGS = ("-O3", "--expt-relaxed-constexpr", "--expt-extended-lambda")
LDFLAGS = ("-fopenmp",)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Equal descriptions make interchangeable libraries."""

    description: str
    environment: dict[str, str]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.description.encode()).hexdigest()[:12]


def toolchain(solution: Solution) -> Toolchain:
    """The toolchain for ``solution``'s language and binding. Programs are asked for their version once a process.

    Raises:
        BuildError: something is missing; the message names the remedy.
    """
    binding = binding_of(solution)
    environment = _environment()
    package = "apache-tvm-ffi" if binding is Binding.TVM_FFI else "torch"
    parts = [
        binding.value,
        _describe(os.environ.get("CXX") or "c++", environment["PATH"]),
        cpu(),
        " ".join((*CFLAGS, *LDFLAGS)),
        f"{package} {_installed(package)}",
    ]
    if binding is Binding.TORCH:
        parts.append(sys.implementation.cache_tag or platform.python_version())
    if shutil.which("ninja", path=environment["PATH"]) is None:
        raise BuildError("ninja is not installed", remedy="pip install ninja")
    if _has_cuda(solution):
        major, minor = capability()
        home = cuda_home(environment)
        architecture = cuda_architecture(major, minor)
        # What the device is decides: images set these lists for wheels that run on every GPU, and for each entry the
        # compiler runs once more.
        environment |= {
            "CUDA_HOME": str(home),
            "TORCH_CUDA_ARCH_LIST": architecture,
            "TVM_FFI_CUDA_ARCH_LIST": architecture,
            "TVM_FFI_GPU_BACKEND": "cuda",
        }
        parts += [_version(str(home / "bin" / "nvcc")), f"sm {architecture}", " ".join(CUDA_FLAGS)]
    return Toolchain("\n".join(parts), environment)


def binding_of(solution: Solution) -> Binding:
    return solution.spec.binding or Binding.TVM_FFI


@functools.lru_cache(maxsize=1)
def cpu() -> str:
    """Model and instruction sets of this host's processor.

    -march=native: a cache in a shared home must not hand one host's instructions to another.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    telling = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(telling)}))


def capability() -> tuple[int, int]:
    """Compute capability of the device that torch uses.

    Raises:
        BuildError: there is none.
    """
    import torch

    if torch.version.cuda is None or not torch.cuda.is_available():
        raise BuildError(
            "a CUDA solution needs a CUDA device and a torch built for it; this host has none",
            remedy="run it on a GPU host",
        )
    return torch.cuda.get_device_capability()


def cuda_architecture(major: int, minor: int) -> str:
    """As compilers are told: from Hopper on with the features of exactly this generation (wgmma, TMA: sm_90a)."""
    return f"{major}.{minor}{'a' if major >= 9 else ''}"


def cuda_home(environment: dict[str, str], usual: Path = Path("/usr/local/cuda")) -> Path:
    """The toolkit to compile with: CUDA_HOME, CUDA_PATH, the one that nvcc on the path belongs to, or the usual place.

    Raises:
        BuildError: there is none.
    """
    named = [Path(environment[name]) for name in ("CUDA_HOME", "CUDA_PATH") if environment.get(name)]
    nvcc = shutil.which("nvcc", path=environment["PATH"])
    found = [Path(nvcc).parent.parent, Path(nvcc).resolve().parent.parent] if nvcc is not None else []
    # The nvcc on the path may be a script that starts another one: its folder has no headers beside it.
    whole = [home for home in (*found, usual) if (home / "include" / "cuda_runtime.h").exists()]
    for home in (*named, *whole, *found):
        if (home / "bin" / "nvcc").exists():
            return home
    raise BuildError("nvcc is not installed", remedy="install the CUDA toolkit and set CUDA_HOME to it")


def _has_cuda(solution: Solution) -> bool:
    return solution.spec.language is Language.CUDA or any(s.path.endswith(".cu") for s in solution.sources)


def _environment() -> dict[str, str]:
    """Ours, with the tools beside the interpreter on the path: they are there even when no environment is active."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    # In English, so that a log can be told from a mishap whatever the host speaks.
    return {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"}


def _describe(compiler: str, path: str) -> str:
    command = shlex.split(compiler)
    program = shutil.which(command[0], path=path) if command else None
    if program is None:
        raise BuildError(
            f"the C++ compiler {compiler!r} is not installed",
            remedy="install g++ (Debian, Ubuntu: apt-get install g++), or set CXX to a compiler you have",
        )
    return _version(program, *command[1:])


@functools.lru_cache(maxsize=8)
def _version(*command: str) -> str:
    """What a program says about itself, launchers such as ccache included in the command."""
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} does not run: {error}", remedy="repair it, or name another one") from error
    return done.stdout.strip() if done.returncode == 0 else " ".join(command)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise BuildError(
            f"the binding needs {package}, which is not installed", remedy=f"pip install {package}"
        ) from None
