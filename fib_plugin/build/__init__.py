"""From a Solution to a callable. Dispatch, bench and agents call `build`; everything else here serves it.

Python and Triton sources are imported, C++ and CUDA sources are compiled once per toolchain and processor and cached.
"""

from __future__ import annotations

from fib_plugin.build.builder import build, lay_down, load, precompile, ready
from fib_plugin.build.error import BuildError
from fib_plugin.build.runnable import Runnable

__all__ = ["BuildError", "Runnable", "build", "lay_down", "load", "precompile", "ready"]
