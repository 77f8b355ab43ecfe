"""HostState: what a solution has no business to change in the process it runs in, and how to put it back."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class _Part:
    read: Callable[[], Any]
    write: Callable[[Any], None]


class HostState:
    """A snapshot; ``differences`` names what changed since, ``restore`` puts everything back.

    Args:
        device: of the tensors at hand; on CUDA the current device, stream and random state count as well.
    """

    RANDOM = frozenset({"torch random state", "CUDA random state", "numpy random state", "python random state"})

    def __init__(self, device: Any) -> None:
        self._parts = _parts(device)
        self._values = {name: part.read() for name, part in self._parts.items()}

    def differences(self) -> list[str]:
        """Names of what is not as it was."""
        return [name for name, part in self._parts.items() if not _same(part.read(), self._values[name])]

    def restore(self) -> None:
        """Puts back what changed, random states included."""
        for name in self.differences():
            self._parts[name].write(self._values[name])


def _parts(device: Any) -> dict[str, _Part]:
    import torch

    parts = {
        "default dtype": _Part(torch.get_default_dtype, torch.set_default_dtype),
        "gradient mode": _Part(torch.is_grad_enabled, lambda on: torch._C._set_grad_enabled(on)),
        "thread count": _Part(torch.get_num_threads, torch.set_num_threads),
        "matmul precision": _Part(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        "deterministic mode": _Part(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
        "default device": _Part(torch.get_default_device, _set_default_device),
        "torch random state": _Part(torch.get_rng_state, torch.set_rng_state),
        "python random state": _Part(random.getstate, random.setstate),
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        parts["numpy random state"] = _Part(lambda: numpy.random.get_state(legacy=True), numpy.random.set_state)
    if device.type == "cuda":
        parts |= {
            "current device": _Part(torch.cuda.current_device, torch.cuda.set_device),
            "current stream": _Part(torch.cuda.current_stream, torch.cuda.set_stream),
            "CUDA random state": _Part(torch.cuda.get_rng_state, torch.cuda.set_rng_state),
            "TF32 mode": _Part(lambda: torch.backends.cuda.matmul.allow_tf32, _set_tf32),
        }
    return parts


def _set_default_device(device: Any) -> None:
    import torch

    # Naming the CPU would install a mode that costs every later call; None takes it out.
    torch.set_default_device(None if device.type == "cpu" else device)


def _set_tf32(allowed: bool) -> None:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed


def _same(now: Any, before: Any) -> bool:
    if isinstance(now, tuple) and isinstance(before, tuple):
        return len(now) == len(before) and all(_same(a, b) for a, b in zip(now, before, strict=True))
    equal = now == before
    return bool(equal if isinstance(equal, bool) else equal.all())
