"""Times calls as an engine runs them on a GPU: recorded into a CUDA graph and replayed.

Between two events around plain calls a small kernel costs what Python takes to launch it, and kernels that were made to
overlap in a graph do not. Recording also shows whether a solution can be captured at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any


class NotCapturable(RuntimeError):
    """A call cannot be recorded into a CUDA graph; the cause says why."""


class Recorded:
    """Calls in a graph.

    Args:
        calls: how many; a replay runs them all.
        last: what the last of them returned: the place that a replay writes to.
        marks: events that the graph itself records before and after them; None where torch has no such.
    """

    def __init__(self, graph: Any, calls: int, last: Any = None, marks: tuple[Any, Any] | None = None) -> None:
        self.last = last
        self._graph = graph
        self._calls = calls
        self._marks = marks

    @property
    def pool(self) -> Any:
        """The memory of its calls; a later recording may take it over once ``last`` is let go."""
        return self._graph.pool()

    def replay(self) -> None:
        """Start the calls on the current stream."""
        self._graph.replay()

    def timed(self) -> float:
        """Nanoseconds of one replay of all calls on the current stream; waits for the device.

        Between events around a replay lies what starting a graph takes, tens of microseconds where it is new; the
        graph's own events leave that out.
        """
        import torch

        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        self._graph.replay()
        end.record()
        end.synchronize()
        if self._marks is not None:
            start, end = self._marks
        return float(start.elapsed_time(end)) * 1e6

    def replay_ns(self) -> float:
        """Nanoseconds a call of one replay, as `timed`."""
        return self.timed() / self._calls


def record(
    call: Callable[..., Any], chunk: Sequence[tuple[Any, ...]], device: Any, stream: Any = None, pool: Any = None
) -> Recorded:
    """The calls of ``chunk``, which must have run before: nothing is compiled or set up in a capture.

    Args:
        call, chunk: what is called, and the arguments of each call.
        device: where.
        stream: is captured; None takes another one each time, and libraries keep a workspace for each.
        pool: of a recording that still lives, whose memory is used again; None takes new memory.

    Raises:
        NotCapturable: the call synchronises, or does something else that a graph cannot hold.
    """
    import torch

    # Not torch.cuda.CUDAGraph: its methods may be hooked (see adapters/torch/graphs.py), and this graph is ours.
    graph = torch._C._CUDAGraph()
    make_stream: Any = torch.cuda.Stream
    stream = make_stream(device) if stream is None else stream
    here = torch.cuda.current_stream(device)
    stream.wait_stream(here)
    marks = _marks()
    with own_random_state(device), torch.cuda.stream(stream):
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        last = None
        try:
            if marks is not None:
                marks[0].record()
            for arguments in chunk:
                last = call(*arguments)
            if marks is not None:
                marks[1].record()
            graph.capture_end()
        except Exception as error:
            _abandon(graph, device)
            raise NotCapturable(repr(error)) from error
    here.wait_stream(stream)
    return Recorded(graph, len(chunk), last, marks)


def _marks() -> tuple[Any, Any] | None:
    """Two events that become nodes of the graph that they are recorded in; None where torch is older than 2.8."""
    import torch

    event: Any = torch.cuda.Event
    try:
        return event(enable_timing=True, external=True), event(enable_timing=True, external=True)
    except TypeError:
        return None


@contextlib.contextmanager
def own_random_state(device: Any) -> Iterator[None]:
    """Lends the device's generator another state, equal and thrown away.

    A capture that fails leaves the state that it began with in capture for good, and then nothing outside of a graph
    draws from it any more; and replays move on what they were captured with.
    """
    import torch

    index = torch.device(device).index
    generator: Any = torch.cuda.default_generators[torch.cuda.current_device() if index is None else index]
    try:
        own = generator.graphsafe_get_state()
        make: Any = torch.Generator
        lent = make(device)
        lent.set_state(generator.get_state())
        generator.graphsafe_set_state(lent.graphsafe_get_state())
    except (AttributeError, NotImplementedError, RuntimeError):  # not every version of torch can
        yield
        return
    try:
        yield
    finally:
        generator.graphsafe_set_state(own)


def _abandon(graph: Any, device: Any) -> None:
    """Ends a capture that failed; the allocator must not go on to serve it."""
    import torch

    with contextlib.suppress(RuntimeError):
        graph.capture_end()
    with contextlib.suppress(RuntimeError, AttributeError):
        torch._C._cuda_endAllocateToPool(torch.device(device).index or 0, graph.pool())
    with contextlib.suppress(RuntimeError):
        torch.cuda.synchronize(device)
