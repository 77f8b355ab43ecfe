"""HOT. Marks the op that an adapter is looking at: what runs inside of it is not looked at again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

_inside = threading.local()


def inside() -> bool:
    """Whether this thread is in an op that an adapter looks at."""
    return getattr(_inside, "busy", False)


def within(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of ``call``, which is the engine's own op or a look at one.

    A compiler that traces sees ``call`` alone.
    """
    if torch.compiler.is_compiling() or getattr(_inside, "busy", False):
        return call(*args, **kwargs)
    _inside.busy = True
    try:
        return call(*args, **kwargs)
    finally:
        _inside.busy = False
