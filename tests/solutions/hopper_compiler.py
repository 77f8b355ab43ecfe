"""Compiles a Triton solution for Hopper on a host without a GPU: ``hopper_compiler.py SOURCE FAMILY CONSTANTS AXES``.

The solution's own launches run, with tensors that nothing wrote, but end where the kernel is compiled: so shapes,
alignments and options are those that a GPU would see. Prints a JSON list of kernel, shared memory and stack in bytes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction

from fib_plugin import ops
from fib_plugin.build import build
from fib_plugin.pack import find_sources
from fib_plugin.schema import Definition

VARIABLE = 4  # each axis that is not constant and not among AXES


class Driver:
    """In place of the one that asks a device."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


compiled: list[Any] = []


def compile_only(run: Any) -> Any:
    def instead(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        compiled.append(kernel)
        return kernel

    return instead


def arguments(definition: Definition, axes: dict[str, int]) -> list[Any]:
    sizes = dict.fromkeys(definition.axes, VARIABLE) | definition.const_axes | axes
    made: list[Any] = []
    for spec in (*definition.inputs.values(), *definition.outputs.values()):
        if spec.shape is None:
            made.append(0.1)
        else:
            made.append(torch.empty([sizes[axis] for axis in spec.shape], dtype=getattr(torch, str(spec.dtype))))
    return made


def stack_of(kernel: Any) -> int:
    """Bytes of local memory for a thread: what its registers did not hold."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        said = subprocess.run([str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    (stack,) = re.findall(r"STACK:(\d+)", said)
    return int(stack)


def main(name: str, family: str, constants: dict[str, Any], axes: dict[str, int]) -> None:
    triton.runtime.driver.set_active(Driver())
    JITFunction.run = compile_only(JITFunction.run)
    (source,) = (source for source in find_sources() if source.name == name)
    definition = ops.ALL[family].definition(**constants)
    with tempfile.TemporaryDirectory() as cache:
        with mock.patch("torch.cuda.is_available", return_value=True):
            runnable = build(source.solution_for(definition, family), definition, Path(cache))
        runnable.into(*arguments(definition, axes))
    found = [
        {"kernel": kernel.metadata.name, "shared": kernel.metadata.shared, "stack": stack_of(kernel)}
        for kernel in compiled
    ]
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:]))
