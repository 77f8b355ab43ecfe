"""Outputs of a call, inside the child that made them: what they are, and their way into a blob."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fib_plugin.bench import wire
from fib_plugin.bench.blob import Blob


def describe(value: Any) -> wire.Output:
    """The form of one returned value."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if type(value) is not torch.Tensor:
        return wire.Output(kind)
    return wire.Output(kind, str(value.dtype).removeprefix("torch."), tuple(value.shape), value.device.type)


def fits(output: wire.Output, place: wire.TensorArg) -> bool:
    """Whether a value of that form is what ``place`` has room for."""
    return output.kind == "torch.Tensor" and (output.dtype, output.shape) == (place.dtype, place.shape)


def store(values: Sequence[Any], blob: Blob, layout: wire.Layout) -> list[wire.Output]:
    """Copy the values that fit to the outputs' places; the forms of all of them."""
    described = [describe(value) for value in values]
    for value, output, place in zip(values, described, layout.outputs, strict=False):
        if fits(output, place):
            blob.tensor(place).copy_(value)
    return described


def as_bytes(value: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, whatever its type: equal ones are equal bit by bit."""
    return value.contiguous().reshape(-1).view(torch.uint8)
