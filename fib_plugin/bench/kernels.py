"""Kernels: what the device itself says of a few calls, by CUPTI: how long kernels ran, and how many were launched.

A second opinion beside the events that count: without the gaps between kernels, and zero where nothing was launched.
Runs in the child, on request and after all timing, since CUPTI slows down what is launched after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

#: What CUPTI calls copies and fills; they take time, and are no kernels.
_NO_KERNELS = ("Memcpy", "Memset")
_LOG_CHARS = 300


@dataclass(frozen=True, slots=True)
class Kernels:
    """Of one call: nanoseconds that the device worked, kernels that overlap counted each, and how many there were.

    ``why``: nothing is known, and this is the reason.
    """

    device_ns: float = 0.0
    launches: float = 0.0
    why: str = ""


def trace(call: Callable[..., Any], chunk: Sequence[Sequence[Any]]) -> Kernels:
    """Trace one call on each of ``chunk``'s arguments, which must have run before. Never raises."""
    try:
        import torch
        from torch.profiler import ProfilerActivity, profile

        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            for arguments in chunk:
                call(*arguments)
            torch.cuda.synchronize()
        return count(found.events() or [], len(chunk))
    except Exception as error:  # no CUPTI, no right to use it, another profiler at work
        return Kernels(why=(str(error) or type(error).__name__)[:_LOG_CHARS])


def count(events: Sequence[Any], calls: int) -> Kernels:
    """Of one call, from the events that torch's profiler recorded of ``calls``."""
    on_device = [event for event in events if event.device_type.name == "CUDA"]
    if not on_device and not events:
        return Kernels(why="CUPTI recorded nothing at all")
    kernels = [event for event in on_device if not event.name.startswith(_NO_KERNELS)]
    took_us = sum(float(event.self_device_time_total) for event in on_device)
    return Kernels(took_us * 1e3 / calls, len(kernels) / calls)
