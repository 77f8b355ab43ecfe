"""Adds the plugin's metrics to vLLM's /metrics when several API servers share one engine.

Then vLLM serves files that prometheus_client keeps for all of them (PROMETHEUS_MULTIPROC_DIR) and not the registry in
which the plugin's collector is. With one API server that registry is served and nothing of this is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM

from fib_plugin import metrics
from fib_plugin.adapter import Adapter, Target


class Metrics(Adapter):
    """Wraps the collector of those files: vLLM's ``get_prometheus_registry`` makes one registry around it, and the
    route that answers /metrics makes another at each scrape.
    """

    name = "vllm.metrics"
    engine = VLLM
    support = True
    targets = (
        Target("prometheus_client.multiprocess:MultiProcessCollector.collect", "collect", VERSIONS, params=("self",)),
    )

    def wanted(self) -> bool:
        return True

    def collect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def collect(collector: Any) -> list[Any]:
            families = list(original(collector))
            exposition = metrics.exposed() if self.live else None
            return families if exposition is None else [*families, *exposition.of_group()]

        return collect
