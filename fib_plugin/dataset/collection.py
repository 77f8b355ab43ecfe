"""no_collection: for loading very many objects. The cyclic collector would walk over all of them time and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Holds the collector off meanwhile; also a decorator. Whoever held it off before still does afterwards.

    A dataset of 100,000 traces loads three times as fast (scripts/bench_dataset.py, trace_set_cold_s); in an engine
    every collection would walk over the engine's own objects as well.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
