"""Metrics: what the engine's processes counted, in the registry that the engine serves. plugin.py exposes and closes.

prometheus_client is never imported here before the host has imported it: it decides at import whether it works across
processes, by a variable that engines set first. A host that never imports it has no registry, and nothing happens.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

import wrapt

import fib_plugin
from fib_plugin.capture.census import Census, Totals
from fib_plugin.capture.lineage import identity

if TYPE_CHECKING:
    from fib_plugin.runtime import Runtime

logger = logging.getLogger("fib_plugin")

#: Counter -> (what it counts, its labels). prometheus_client adds ``_total``.
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "calls": (
        "Calls of an engine's op by what answered: a solution (substituted) or the engine itself (fallback), and why",
        ("op", "definition", "outcome", "reason"),
    ),
    "capture_records": ("Workload records by what became of them", ("outcome", "reason")),
    "capture_errors": ("Failures of the capture writer, most of them tried again", ("reason",)),
    "capture_bytes": ("Tensor data that the capture writer has written", ()),
}


class Collector:
    """What prometheus_client asks at each scrape; an error of ours leaves the engine's own metrics alone."""

    def __init__(self, census: Census) -> None:
        self._census = census
        self._failed = False

    def describe(self) -> list[Any]:
        """The names, for the registry to find clashes."""
        return _families(Totals())

    def collect(self) -> list[Any]:
        """All families with their samples, or none if they cannot be had now."""
        try:
            return _families(self._census.read())
        except Exception as error:
            if not self._failed:
                logger.warning("metrics cannot be collected: %r", error)
                self._failed = True
            return []


class Exposition:
    """The metrics of one runtime: in every registry it was added to until it is closed."""

    def __init__(self, runtime: Runtime) -> None:
        def status() -> Any:
            return runtime.snapshot()["status"]

        folder = runtime.settings.cache_path / "status"
        self._collector = Collector(Census(folder, status))
        self._of_group = Collector(Census(folder, status, _head_of_group()))
        self._registries: list[Any] = []
        self._open = True

    def add_to(self, registry: Any) -> None:
        """Adds this process and its descendants to a CollectorRegistry, once. Never raises."""
        with _lock:
            if not self._open or registry in self._registries:
                return
            try:
                registry.register(self._collector)
                self._registries.append(registry)
            except Exception as error:  # somebody else's metric has one of our names
                logger.warning("metrics are not exposed: %s", error)

    def of_group(self) -> list[Any]:
        """The families for a page that several sibling processes serve: their parent's descendants, all of them."""
        return self._of_group.collect() if self._open else []

    def close(self) -> None:
        """Takes the metrics out of every registry. Never raises."""
        global _exposed
        with _lock:
            self._open = False
            for registry in self._registries:
                with contextlib.suppress(Exception):  # the host may have emptied its registry
                    registry.unregister(self._collector)
            self._registries.clear()
            if _exposed is self:
                _exposed = None


_lock = threading.RLock()
_exposed: Exposition | None = None
_awaited = False


def expose(runtime: Runtime) -> Exposition | None:
    """Shows the runtime's counts in prometheus_client's registry as soon as the host has one; never raises.

    An earlier exposition is closed first. With FIB_DISABLE nothing is exposed.
    """
    global _exposed, _awaited
    try:
        with _lock:
            if _exposed is not None:
                _exposed.close()
            if runtime.settings.disable:
                return None
            _exposed = Exposition(runtime)
            if (module := sys.modules.get("prometheus_client")) is not None:
                _arrived(module)
            elif not _awaited:
                _awaited = True
                wrapt.register_post_import_hook(_arrived, "prometheus_client")
            return _exposed
    except Exception as error:
        logger.warning("metrics are not exposed: %r", error)
        return None


def exposed() -> Exposition | None:
    """What is exposed in this process, if anything."""
    return _exposed


def _arrived(module: ModuleType) -> None:
    # Runs inside the host's import statement, so nothing may leave it; a module that is half imported has no registry.
    exposition, registry = _exposed, getattr(module, "REGISTRY", None)
    if exposition is not None and registry is not None:
        exposition.add_to(registry)


def _head_of_group() -> str | None:
    """The process that started this one and its siblings, or this one if it was started by hand.

    Several API servers and the engine's core are siblings then.
    """
    parent = multiprocessing.parent_process()
    return identity(os.getpid() if parent is None or parent.pid is None else parent.pid)


def _families(totals: Totals) -> list[Any]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    families = {
        name: CounterMetricFamily(f"fib_{name}", text, labels=labels) for name, (text, labels) in COUNTERS.items()
    }
    for (name, *labels), count in sorted(totals.counts.items()):
        families[name].add_metric(labels, count)
    running = GaugeMetricFamily("fib_solutions_running", "Solutions that answer calls of an op", labels=("op",))
    for op, solutions in sorted(totals.solutions.items()):
        running.add_metric((op,), len(solutions))
    facts = {"version": fib_plugin.__version__, "engine": " ".join(" ".join(item) for item in totals.engine.items())}
    switches = {name: str(value).lower() for name, value in totals.switches.items()}
    info = InfoMetricFamily("fib", "The plugin's version, the engine's, and the switches", value={**switches, **facts})
    return [
        *families.values(),
        running,
        GaugeMetricFamily("fib_quarantined", "Solutions that are out", value=len(totals.quarantined)),
        GaugeMetricFamily("fib_processes", "Living processes that met a hooked op", value=totals.processes),
        GaugeMetricFamily("fib_capture_queued", "Records that wait for the disk", value=totals.queued),
        info,
    ]
