"""Adds the plugin's metrics to SGLang's /metrics (``--enable-metrics``), which is always of several processes."""

from __future__ import annotations

from fib_plugin.adapters.live.metrics import SharedPage, collector
from fib_plugin.adapters.sglang.engine import SGLANG, VERSIONS


class Metrics(SharedPage):
    """The front end makes a registry around the collector when it starts to serve."""

    name = "sglang.metrics"
    engine = SGLANG
    targets = collector(VERSIONS)
