"""The compiling process: reads one order as JSON from standard input, leaves a shared library in its folder.

Started by `fib_plugin.build.native`; what it prints becomes the log of a BuildError.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """0 when the library is there."""
    signal.signal(signal.SIGTERM, _end)
    if sys.platform == "linux":  # a compiler whose client was killed has nobody left to work for
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    order = json.load(sys.stdin)
    try:
        {"tvm-ffi": _tvm_ffi, "torch": _torch}[order["binding"]](order)
    except Exception as error:
        print(error)
        return 1
    return 0


def _end(number: int, frame: object) -> None:
    """Take along what was started: ninja, asked to end, ends its compilers. A runaway one would outlive us."""
    for listed in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in listed.read_text().split():
                os.kill(int(child), signal.SIGTERM)
    os._exit(128 + number)


def _tvm_ffi(order: dict[str, Any]) -> None:
    if not any(source.endswith(".cu") for source in order["sources"]):
        # tvm_ffi imports torch where it finds it, which takes as long as compiling, and C++ sources need nothing of it.
        sys.modules["torch"] = None  # type: ignore[assignment]
    import tvm_ffi.cpp

    cuda = [source for source in order["sources"] if source.endswith(".cu")]
    tvm_ffi.cpp.build(  # by kind, which 0.1.9 asks for and later versions take too
        order["name"],
        cpp_files=[source for source in order["sources"] if source not in cuda] or None,
        cuda_files=cuda or None,
        extra_cflags=order["cflags"],
        extra_cuda_cflags=order["cuda_flags"],
        extra_ldflags=order["ldflags"],
        extra_include_paths=[order["include"]],
        build_directory=order["folder"],
    )


def _torch(order: dict[str, Any]) -> None:
    from torch.utils import cpp_extension

    cpp_extension.load(
        order["name"],
        order["sources"],
        extra_cflags=order["cflags"],
        extra_cuda_cflags=order["cuda_flags"],
        extra_ldflags=order["ldflags"],
        extra_include_paths=[order["include"]],
        build_directory=order["folder"],
    )


if __name__ == "__main__":
    sys.exit(main())
