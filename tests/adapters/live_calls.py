"""What the tests of live calls share: rows in every shape that an engine may pass, and why calls were left alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fib_plugin.runtime import Runtime

Make = Callable[..., Runtime]
FP32 = {"dtype": "float32"}
#: Rows that every live call has, in its various shapes.
ROWS = 6


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


def shapes(width: int) -> dict[str, torch.Tensor]:
    """ROWS rows of a width: as a matrix, with more dimensions, and as views of something larger."""
    return {
        "matrix": normal(ROWS, width),
        "batched": normal(2, 3, width),
        "deep": normal(1, 3, 2, width),
        "columns of a wider one": normal(ROWS, 3 * width)[:, width : 2 * width],
        "every other row": normal(2 * ROWS, width)[::2],
        "a batch of views": normal(2, 3, 2 * width)[..., :width],
        "transposed batch": normal(3, 2, width).transpose(0, 1),
    }


SHAPES = pytest.mark.parametrize("shape", list(shapes(4)))


def reasons(runtime: Runtime) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in runtime.snapshot()["status"]["ops"].values():
        for reason, count in line["fallbacks"].items():
            found[reason] = found.get(reason, 0) + count
    return found
