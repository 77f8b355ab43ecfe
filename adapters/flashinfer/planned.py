"""HOT. Wrappers that are planned once a step and run by every layer: what was planned, and what ``run`` returns."""

from __future__ import annotations

from typing import Any

import torch
from fib_plugin.adapters.flashinfer.library import answered


def planned_by(wrapper: Any) -> Any:
    """What was kept of the last ``plan``; None when there was none that we saw, or others come past us.

    An engine may give a wrapper a faster plan of its own, for replays.
    """
    own = vars(wrapper)
    return None if "plan" in own or "begin_forward" in own else own.get("fib_planned")


def uncapturable(adapter: Any, wrapper: Any, q: torch.Tensor) -> bool:
    """Whether the call goes into a CUDA graph in which ``adapter`` cannot choose for it.

    The step of a graph is planned anew before each replay: only into buffers that are the wrapper's own can a solution
    look, and a capture that nobody told of cannot be told from the next one.
    """
    if adapter.runtime.graphs.current() is not None:
        return not (adapter.in_graphs and getattr(wrapper, "_use_cuda_graph", False))
    return bool(q.is_cuda and torch.cuda.is_current_stream_capturing())


def returned(result: Any, out: Any = None, lse: Any = None, return_lse: bool = False, **others: Any) -> Any:
    """A solution's result as ``run`` returns it; both sides' log-sum-exp is base 2."""
    output, found = result if isinstance(result, tuple) else (result, None)
    output = answered(output, out)
    return (output, answered(found, lse)) if return_lse else output
