"""Recorder: a child's CUDA graphs. Calls are recorded, then run once by one replay; the worker calls it.

Nothing of what is recorded runs while it is: what a call computes then, aside from the graph, it computes from inputs
that change before the replay.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fib_plugin.bench.burst import burst_graph
from fib_plugin.dispatch.graph_clock import Recorded, record

_LOG_CHARS = 400


class Recorder:
    """Holds one recording at a time; the next one uses its memory again."""

    def __init__(self) -> None:
        self._recorded: Recorded | None = None
        self._calls = 0
        self._idle = False
        self._stream: Any = None
        #: (what was called, set): nothing is compiled or set up in a capture.
        self._warm: set[tuple[Any, int]] = set()

    def record(self, call: Callable[..., Any] | None, sets: Sequence[Sequence[Any]], chosen: Sequence[int]) -> str:
        """Record ``call`` on the ``chosen`` sets, in that order; why it cannot be, in words, or nothing.

        None for ``call`` stands for no work at all.
        """
        self._idle = call is None
        if call is None:
            return ""
        before, self._recorded, self._calls = self._recorded, None, len(chosen)
        self._warm_up(call, sets, chosen)
        pool = None
        if before is not None:
            before.last, pool = None, before.pool  # it must live until its memory is another's
        if self._stream is None:
            make: Any = torch.cuda.Stream
            self._stream = make()
        gc.disable()  # what is freed in a capture may break it
        try:
            device = torch.device("cuda", torch.cuda.current_device())
            self._recorded = record(call, [tuple(sets[index]) for index in chosen], device, self._stream, pool)
        except RuntimeError as error:
            return str(error)[:_LOG_CHARS]
        finally:
            gc.enable()
            torch.cuda.synchronize()  # what was started beside the capture has ended before the inputs change
        return ""

    def replay(self) -> tuple[float, Any]:
        """Nanoseconds of the recorded calls, and what the last of them returned."""
        if self._idle:
            return 0.0, None
        if self._recorded is None:
            raise RuntimeError("nothing was recorded")
        return burst_graph(self._recorded, self._calls), self._recorded.last

    def _warm_up(self, call: Callable[..., Any], sets: Sequence[Sequence[Any]], chosen: Sequence[int]) -> None:
        # In the engine's prepared ops the call is part of the set.
        cold = [index for index in dict.fromkeys(chosen) if (id(sets[index]), id(call)) not in self._warm]
        for index in cold:
            call(*sets[index])
            self._warm.add((id(sets[index]), id(call)))
        if cold:
            torch.cuda.synchronize()
