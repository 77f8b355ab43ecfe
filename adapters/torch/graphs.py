"""CUDA graphs of any engine: which calls a graph holds, and every replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fib_plugin.adapter import Adapter, Engine, Target

TORCH = Engine("torch", ("torch",))
VERSIONS = ">=2.6,<3"
_GRAPH = "torch.cuda.graphs:CUDAGraph"


class Graphs(Adapter):
    """Wraps capture and replay of torch's graphs, through which vLLM's and SGLang's graph runners go."""

    name = "torch.graphs"
    engine = TORCH
    support = True
    targets = (
        Target(f"{_GRAPH}.capture_begin", "begin", VERSIONS),
        Target(f"{_GRAPH}.capture_end", "end", VERSIONS, params=("self",)),
        Target(f"{_GRAPH}.replay", "replay", VERSIONS, params=("self",)),
    )

    def wanted(self) -> bool:
        return torch.version.cuda is not None and bool(self.runtime.adapters)

    def begin(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def capture_begin(graph: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(graph, *args, **kwargs)
            if self.live:
                self.runtime.graphs.begin(graph)
            return result

        return capture_begin

    def end(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def capture_end(graph: Any) -> Any:
            # Also after an uninstall: what a capture hides must come back.
            self.runtime.graphs.end()
            return original(graph)

        return capture_end

    def replay(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def replay(graph: Any) -> Any:
            result = original(graph)
            if self.live:
                self.runtime.graphs.replayed(graph)
            return result

        return replay
