"""torch itself: what every engine on it shares."""

from __future__ import annotations

from fib_plugin.adapters.torch.graphs import Graphs

ADAPTERS = (Graphs,)
