"""Solutions for probation: each is the reference with one thing more, and what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from proven import prove, silu, solution

from fib_plugin.dispatch.site import Original, Site

ROWS = 4
D = 4

#: Right and quick.
GOOD = "\n"


def doing(line: str, where: str = "before") -> str:
    """Source that runs ``line`` before or after the reference; x is the input, out the output."""
    first, last = (line, "pass") if where == "before" else ("pass", line)
    return f"""
import time
import torch
_reference = run
_kept = []
_calls = [0]
_buffer = torch.zeros(64, {D})


def run(x):
    _calls[0] += 1
    {first}
    out = _reference(x)
    {last}
    return out
"""


def silu_run(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(x[..., :D]) * x[..., D:]


def slow_original(x: torch.Tensor) -> torch.Tensor:
    """The engine's op of these tests: right, and slower than any solution that does not dawdle."""
    time.sleep(5e-4)
    return silu_run(x)


def site_of(runtime: Any, original: Callable[..., Any] = slow_original) -> Site:
    return runtime.site("test.op", silu(D), original=Original(original))


def proven(dataset: Any, after: str, name: str = "fast", sizes: tuple[int, ...] = (ROWS, 2 * ROWS, 4 * ROWS)) -> Any:
    return prove(dataset, silu(D), solution(silu(D), name, after), sizes)


def rows(count: int = ROWS) -> torch.Tensor:
    return torch.randn(count, 2 * D)


def call(site: Site, count: int = ROWS, times: int = 3) -> list[Any]:
    """What the site answers, call after call; None where the engine's op must."""
    return [site.attempt(count, (rows(count),)) for _ in range(times)]


def reasons(runtime: Any) -> dict[str, int]:
    return runtime.snapshot()["status"]["ops"]["test.op"]["fallbacks"]
