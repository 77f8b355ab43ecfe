"""Race: a solution and the engine's op in turns, on the weights of as many layers as were met: cold, as in serving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fib_plugin.dispatch.graph_clock import NotCapturable, record
from fib_plugin.dispatch.stopwatch import sample

#: Timed pairs, and how long one sample of plain calls should last to be above the clock's noise.
PAIRS = 18
_SAMPLE_NS = 50_000
_MOST_REPEATS = 8
_MOST_LAYERS = 64
#: Of one graph: how long a replay should take, and its most calls; of all replays: how long together, and how few.
_REPLAY_NS = 1_000_000
_MOST_RECORDED = 32
_ALL_REPLAYS_NS = 300_000_000
_FEWEST_PAIRS = 5
#: Layers whose weights are to be met before a GPU is timed: together several times its cache, small ones do not count.
_CACHES = 3
_SMALL_BYTES = 1 << 20

Call = Callable[..., Any]
Arguments = tuple[Any, ...]


class SideError(Exception):
    """The solution raised while it was timed; the cause is what it raised."""


class Race:
    """Times of one trial.

    Args:
        weights: places of the inputs that are weights.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self.solution_ns: list[float] = []
        self.original_ns: list[float] = []
        self._weights = list(weights)
        self._layers: dict[tuple[int, ...], Arguments] = {}
        self._bytes = 0

    def forget(self) -> None:
        """Drops the times taken, for another form of the solution."""
        self.solution_ns.clear()
        self.original_ns.clear()

    def meet(self, inputs: Arguments) -> None:
        """Keeps the weights of the layer that was called."""
        if self._weights and len(self._layers) < _MOST_LAYERS:
            weights = tuple(inputs[i] for i in self._weights)
            key = tuple(weight.data_ptr() for weight in weights)
            if key not in self._layers:
                self._layers[key] = weights
                self._bytes += sum(weight.numel() * weight.element_size() for weight in weights)

    def cold(self, device: Any) -> bool:
        """Whether the weights that were met do not fit into the device's cache together, or do not matter."""
        if not self._layers or self._bytes < _SMALL_BYTES * len(self._layers):
            return True
        import torch

        return self._bytes >= _CACHES * int(torch.cuda.get_device_properties(device).L2_cache_size)

    def plain(
        self, ours: Call, original: Call, args: Arguments, private: tuple[Call, Call], pairs: int, device: Any
    ) -> None:
        """Times plain calls, each side first in turn.

        Args:
            private: for each side, makes arguments that it may overwrite; not timed.
        """
        turn, repeats = 0, 1
        for pair in range(pairs + 1):
            chunks = [
                [private[side](self._on_layer(args, turn + step + side)) for step in range(repeats)] for side in (0, 1)
            ]
            turn += repeats + 1
            took = {}
            for side in (0, 1) if pair % 2 else (1, 0):
                try:
                    took[side] = sample((ours, original)[side], chunks[side], device)
                except Exception as error:
                    if side == 1:
                        raise
                    raise SideError from error
            if pair == 0:  # warms up, and tells how many calls make a sample
                repeats = max(1, min(_MOST_REPEATS, int(_SAMPLE_NS / max(1.0, min(took.values())))))
                continue
            self.solution_ns.append(took[0])
            self.original_ns.append(took[1])

    def in_graphs(self, ours: Call, original: Call, args: Arguments, private: tuple[Call, Call], device: Any) -> bool:
        """Times replays of CUDA graphs, each side first in turn. False: the engine's op cannot be captured.

        Raises:
            NotCapturable: the engine's op can be captured, the solution cannot.
        """
        once = sample(original, [private[1](args)], device)
        calls = max(2, min(_MOST_RECORDED, int(_REPLAY_NS / max(1.0, once))))
        chunks = [[private[side](self._on_layer(args, step)) for step in range(calls)] for side in (0, 1)]
        try:
            theirs = record(original, chunks[1], device)
        except NotCapturable:
            return False
        mine = record(ours, chunks[0], device)
        took = sum(side.replay_ns() for side in (mine, theirs)) * calls
        pairs = max(_FEWEST_PAIRS, min(PAIRS, int(_ALL_REPLAYS_NS / max(1.0, took))))
        for pair in range(pairs):
            first, second = (mine, theirs) if pair % 2 else (theirs, mine)
            times = {first: first.replay_ns(), second: second.replay_ns()}
            self.solution_ns.append(times[mine])
            self.original_ns.append(times[theirs])
        return True

    def _on_layer(self, args: Arguments, turn: int) -> Arguments:
        layers = list(self._layers.values())
        if not layers:
            return args
        changed = list(args)
        for i, weight in zip(self._weights, layers[turn % len(layers)], strict=True):
            changed[i] = weight
        return tuple(changed)
