"""Times calls of the engine's op or of a solution on live inputs, by the device's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

_now = time.perf_counter_ns


def sample(call: Callable[..., Any], chunk: Sequence[tuple[Any, ...]], device: Any) -> float:
    """Nanoseconds a call over the argument lists of ``chunk``: wall time on a CPU, between two events on a GPU."""
    if device.type != "cuda":
        start = _now()
        for arguments in chunk:
            call(*arguments)
        return (_now() - start) / len(chunk)
    import torch

    event: Any = torch.cuda.Event
    start_event, end_event = event(enable_timing=True), event(enable_timing=True)
    start_event.record()
    for arguments in chunk:
        call(*arguments)
    end_event.record()
    end_event.synchronize()
    return float(start_event.elapsed_time(end_event)) * 1e6 / len(chunk)


def capturing(args: tuple[Any, ...]) -> bool:
    """Whether a CUDA graph is being captured on the stream of these tensors."""
    for value in args:  # no generator: an engine's thread waits for this
        if getattr(value, "is_cuda", False):
            import torch

            return torch.cuda.is_current_stream_capturing()
    return False
