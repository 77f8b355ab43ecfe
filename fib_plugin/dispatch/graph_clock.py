"""Times calls as an engine runs them on a GPU: recorded into a CUDA graph and replayed.

Between two events around plain calls a small kernel costs what Python takes to launch it, and kernels that were made to
overlap in a graph do not. Recording also shows whether a solution can be captured at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any


class NotCapturable(RuntimeError):
    """A call cannot be recorded into a CUDA graph; the cause says why."""


class Recorded:
    """Calls in a graph.

    Args:
        calls: how many; a replay runs them all.
    """

    def __init__(self, graph: Any, calls: int) -> None:
        self._graph = graph
        self._calls = calls

    def replay_ns(self) -> float:
        """Nanoseconds a call of one replay on the current stream; waits for the device."""
        import torch

        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        self._graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e6 / self._calls


def record(call: Callable[..., Any], chunk: Sequence[tuple[Any, ...]], device: Any) -> Recorded:
    """The calls of ``chunk``, which must have run before: nothing is compiled or set up in a capture.

    Raises:
        NotCapturable: the call synchronises, or does something else that a graph cannot hold.
    """
    import torch

    # Not torch.cuda.CUDAGraph: its methods may be hooked (see adapters/torch/graphs.py), and this graph is ours.
    graph = torch._C._CUDAGraph()
    make_stream: Any = torch.cuda.Stream
    stream = make_stream(device)
    here = torch.cuda.current_stream(device)
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        graph.capture_begin(pool=None, capture_error_mode="thread_local")
        try:
            for arguments in chunk:
                call(*arguments)
            graph.capture_end()
        except Exception as error:
            _abandon(graph, device)
            raise NotCapturable(repr(error)) from error
    here.wait_stream(stream)
    return Recorded(graph, len(chunk))


def _abandon(graph: Any, device: Any) -> None:
    """Ends a capture that failed; the allocator must not go on to serve it."""
    import torch

    with contextlib.suppress(RuntimeError):
        graph.capture_end()
    with contextlib.suppress(RuntimeError, AttributeError):
        torch._C._cuda_endAllocateToPool(torch.device(device).index or 0, graph.pool())
    with contextlib.suppress(RuntimeError):
        torch.cuda.synchronize(device)
