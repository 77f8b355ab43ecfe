"""What the runtime tests share: calls of a toy adapter, and solutions that fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import proven
import torch
from proven import silu

from fib_plugin import ops
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

Make = Callable[..., Runtime]
RMSNORM = ops.ALL["rmsnorm"].definition


def x(rows: int = 4, d: int = 4) -> torch.Tensor:
    return torch.arange(rows * 2 * d, dtype=torch.float32).reshape(rows, 2 * d) / 10


def call(runtime: Runtime, rows: int = 4, definition: Definition | None = None, adapter: str = "toy.silu") -> Any:
    site = runtime.site(adapter, definition or silu())
    return site.attempt(rows, (x(rows),))


def counts(runtime: Runtime, adapter: str = "toy.silu") -> dict[str, Any]:
    return runtime.snapshot()["status"]["ops"][adapter]


def unbuildable(root: Path) -> None:
    proven.prove(root, silu(), proven.solution(silu(), after="\nimport nowhere_to_be_found\n"))


def raising(root: Path) -> None:
    proven.prove(root, silu(), proven.solution(silu(), after=proven.RAISING))
