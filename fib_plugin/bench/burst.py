"""Hot: calls in a row inside a child, without a frame or an object per call that a solution could look at.

The parent's clock times a burst from outside; what is measured here only has to agree with it.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle, islice, starmap
from typing import Any

from fib_plugin.dispatch.graph_clock import Recorded

# Bound before any solution is imported.
_now = time.perf_counter_ns
_enable, _disable = gc.enable, gc.disable
#: The device waits so long before a graph, in clock cycles, that the graph lies there when it begins: it is new, and
#: sending it takes longer than small kernels run.
_WAIT_CYCLES, _WAIT_CYCLES_PER_CALL, _MOST_WAIT_CYCLES = 60_000, 4_000, 400_000


def burst(call: Callable[..., Any], sets: Sequence[Sequence[Any]], start: int, calls: int) -> tuple[float, Any]:
    """Nanoseconds of ``calls`` calls on the ``sets`` in rotation, from ``start`` on, and what the last one returned."""
    chunk = islice(cycle(sets), start, start + calls)
    _disable()
    begin = _now()
    last = deque(starmap(call, chunk), maxlen=1)
    took = _now() - begin
    _enable()
    return took, last[0] if last else None


def burst_cuda(call: Callable[..., Any], sets: Sequence[Sequence[Any]], start: int, calls: int) -> tuple[float, Any]:
    """As `burst`, by the device's events on the current stream."""
    import torch

    event: Any = torch.cuda.Event
    first, second = event(enable_timing=True), event(enable_timing=True)
    chunk = islice(cycle(sets), start, start + calls)
    torch.cuda.synchronize()
    _disable()
    first.record()
    last = deque(starmap(call, chunk), maxlen=1)
    second.record()
    second.synchronize()
    _enable()
    torch.cuda.synchronize()  # what runs on other streams is waited for on the parent's clock
    return float(first.elapsed_time(second)) * 1e6, last[0] if last else None


def burst_graph(recorded: Recorded, calls: int) -> float:
    """Nanoseconds of one replay of ``calls`` recorded calls, by the device's events on the current stream."""
    import torch

    wait: Any = torch.cuda._sleep
    torch.cuda.synchronize()
    _disable()
    wait(min(_MOST_WAIT_CYCLES, _WAIT_CYCLES + calls * _WAIT_CYCLES_PER_CALL))
    took = recorded.timed()
    _enable()
    torch.cuda.synchronize()
    return took
