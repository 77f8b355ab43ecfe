"""Adds the plugin's metrics to vLLM's /metrics when several API servers share one engine."""

from __future__ import annotations

from fib_plugin.adapters.live.metrics import SharedPage, collector
from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM


class Metrics(SharedPage):
    """With one API server vLLM serves prometheus_client's own registry and nothing of this is called.

    Else ``get_prometheus_registry`` makes one registry around the collector, and the route that answers /metrics makes
    another at each scrape.
    """

    name = "vllm.metrics"
    engine = VLLM
    targets = collector(VERSIONS)
