"""The plugin's metrics on a page that several processes of an engine share.

Then the engine serves files that prometheus_client keeps for all of them (PROMETHEUS_MULTIPROC_DIR) and not the
registry in which the plugin's collector is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fib_plugin import metrics
from fib_plugin.adapter import Adapter, Target


class SharedPage(Adapter):
    """Wraps the collector of those files, around which an engine makes a registry at its start or at each scrape.

    An engine's adapter says its name, its engine and ``collector(versions)`` as its targets.
    """

    support = True

    def wanted(self) -> bool:
        return True

    def collect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def collect(collector: Any) -> list[Any]:
            families = list(original(collector))
            exposition = metrics.exposed() if self.live else None
            return families if exposition is None else [*families, *exposition.of_group()]

        return collect


def collector(versions: str) -> tuple[Target]:
    """What is wrapped, in these versions of an engine."""
    path = "prometheus_client.multiprocess:MultiProcessCollector.collect"
    return (Target(path, "collect", versions, params=("self",)),)
