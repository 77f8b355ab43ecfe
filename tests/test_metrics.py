"""Metrics stand in the host's registry while something is exposed, and never cost the host anything."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from board.serving_cases import report

import fib_plugin
from fib_plugin import metrics, plugin, settings
from fib_plugin.capture.lineage import lineage
from fib_plugin.dispatch.reason import Reason

prometheus_client = pytest.importorskip("prometheus_client")

Expose = Callable[..., "metrics.Exposition | None"]

STATUS = {
    "engine": {"vllm": "0.32.0"},
    "switches": {"apply": True, "tracing": False},
    "ops": {
        "vllm.gemm": {
            "fallbacks": {"not_faster": 2, "unsupported_argument": 3},
            "definitions": {"gemm": {"substituted": 5, "solution": "fast", "fallbacks": {"not_faster": 2}}},
        }
    },
    "quarantined": [{"solution": "bad"}],
    "capture": {"written": 4, "dropped": {"disk_full": 1}, "queued": 6},
}


@pytest.fixture
def expose(tmp_path: Path) -> Iterator[Expose]:
    """Exposes a runtime that counted STATUS, or what the test says; nothing is exposed afterwards."""

    def expose(status: Any = STATUS, disable: bool = False) -> metrics.Exposition | None:
        def snapshot() -> dict[str, Any]:
            return {"calls": {}, "status": status() if callable(status) else status}

        chosen = SimpleNamespace(cache_path=tmp_path, disable=disable)
        return metrics.expose(SimpleNamespace(settings=chosen, snapshot=snapshot))  # type: ignore[arg-type]

    yield expose
    if (exposition := metrics.exposed()) is not None:
        exposition.close()


def page(registry: Any = prometheus_client.REGISTRY) -> list[str]:
    """The samples of ours on the registry's page."""
    text: str = prometheus_client.generate_latest(registry).decode()
    return [line for line in text.splitlines() if line.startswith("fib_")]


def test_the_registry_of_the_host_shows_every_count(expose: Expose) -> None:
    expose()
    assert page() == [
        'fib_calls_total{definition="",op="vllm.gemm",outcome="fallback",reason="unsupported_argument"} 3.0',
        'fib_calls_total{definition="gemm",op="vllm.gemm",outcome="fallback",reason="not_faster"} 2.0',
        'fib_calls_total{definition="gemm",op="vllm.gemm",outcome="substituted",reason=""} 5.0',
        'fib_capture_records_total{outcome="dropped",reason="disk_full"} 1.0',
        'fib_capture_records_total{outcome="duplicate",reason=""} 0.0',
        'fib_capture_records_total{outcome="written",reason=""} 4.0',
        "fib_capture_bytes_total 0.0",
        'fib_solutions_running{op="vllm.gemm"} 1.0',
        "fib_quarantined 1.0",
        "fib_processes 1.0",
        "fib_capture_queued 6.0",
        f'fib_info{{apply="true",engine="vllm 0.32.0",tracing="false",version="{fib_plugin.__version__}"}} 1.0',
    ]


def test_each_scrape_asks_again(expose: Expose) -> None:
    capture = {"written": 1}
    expose(lambda: {"capture": capture})
    assert 'fib_capture_records_total{outcome="written",reason=""} 1.0' in page()
    capture["written"] = 2
    assert 'fib_capture_records_total{outcome="written",reason=""} 2.0' in page()


def test_a_page_that_is_asked_for_one_metric_has_it(expose: Expose) -> None:
    expose()
    assert page(prometheus_client.REGISTRY.restricted_registry(["fib_quarantined"])) == ["fib_quarantined 1.0"]


def test_what_children_counted_is_on_the_page(expose: Expose, tmp_path: Path) -> None:
    report(tmp_path / "status", pid=7, lineage=["7.1", *lineage()], capture={"written": 10})
    expose()
    assert 'fib_capture_records_total{outcome="written",reason=""} 14.0' in page()


def test_closing_takes_everything_out(expose: Expose) -> None:
    exposition = expose()
    assert exposition is not None
    assert metrics.exposed() is exposition
    exposition.close()
    assert page() == []
    assert metrics.exposed() is None
    assert exposition.of_group() == []
    prometheus_client.REGISTRY.unregister(prometheus_client.Counter("fib_calls", "somebody else's"))


def test_closing_twice_or_after_the_host_emptied_its_registry_is_no_error(expose: Expose) -> None:
    exposition = expose()
    assert exposition is not None
    for collector in list(prometheus_client.REGISTRY._collector_to_names):
        if isinstance(collector, metrics.Collector):
            prometheus_client.REGISTRY.unregister(collector)
    exposition.close()
    exposition.close()


def test_what_is_closed_is_added_nowhere(expose: Expose) -> None:
    exposition = expose()
    assert exposition is not None
    exposition.close()
    registry = prometheus_client.CollectorRegistry()
    exposition.add_to(registry)
    assert page(registry) == []


def test_a_registry_shows_each_metric_once(expose: Expose, log: Any) -> None:
    exposition = expose()
    assert exposition is not None
    exposition.add_to(prometheus_client.REGISTRY)
    assert page().count("fib_quarantined 1.0") == 1
    assert log.warnings == []


def test_exposing_again_replaces_the_earlier_exposition(expose: Expose) -> None:
    expose()
    expose({"quarantined": []})
    assert [line for line in page() if line.startswith("fib_quarantined")] == ["fib_quarantined 0.0"]


def test_a_name_that_somebody_else_took_is_left_to_him(expose: Expose, log: Any) -> None:
    other = prometheus_client.Gauge("fib_quarantined", "somebody else's")
    try:
        expose()
        assert page() == ["fib_quarantined 0.0"]
        assert len(log.warnings) == 1
        assert "fib_quarantined" in log.warnings[0]
    finally:
        prometheus_client.REGISTRY.unregister(other)


def test_a_registry_in_which_a_name_is_taken_stays_as_it_is(expose: Expose) -> None:
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Gauge("fib_quarantined", "somebody else's", registry=registry)
    exposition = expose()
    assert exposition is not None
    exposition.add_to(registry)
    assert page(registry) == ["fib_quarantined 0.0"]


def test_a_defect_of_ours_leaves_the_page_to_the_host_and_is_told_once(expose: Expose, log: Any) -> None:
    def broken() -> Any:
        raise RuntimeError("defect")

    expose(broken)
    for _ in range(2):
        assert page() == []
        assert b"python_info" in prometheus_client.generate_latest(prometheus_client.REGISTRY)
    assert log.warnings == ["metrics cannot be collected: RuntimeError('defect')"]


def test_a_runtime_that_cannot_be_exposed_is_no_error(log: Any) -> None:
    assert metrics.expose(SimpleNamespace()) is None  # type: ignore[arg-type]
    assert len(log.warnings) == 1


def test_with_the_kill_switch_nothing_is_exposed(expose: Expose) -> None:
    assert expose(disable=True) is None
    assert page() == []


def test_siblings_stand_on_the_page_of_their_group_and_not_in_the_registry(
    expose: Expose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(pid=os.getppid()))
    sibling = ["7.1", *lineage()[1:]]
    report(tmp_path / "status", pid=7, lineage=sibling, capture={"written": 10})
    exposition = expose()
    assert exposition is not None
    samples = {
        tuple(sample.labels.values()): sample.value
        for family in exposition.of_group()
        for sample in family.samples
        if sample.name == "fib_capture_records_total"
    }
    assert samples["written", ""] == 14
    assert 'fib_capture_records_total{outcome="written",reason=""} 4.0' in page()


def test_a_process_that_was_started_by_hand_is_a_group_of_its_own(expose: Expose) -> None:
    exposition = expose()
    assert exposition is not None
    (family,) = [family for family in exposition.of_group() if family.name == "fib_quarantined"]
    assert [sample.value for sample in family.samples] == [1]


def test_a_runtime_shows_the_calls_that_it_counted(make_runtime: Callable[..., Any]) -> None:
    runtime = make_runtime(apply=False, tracing=True)
    exposition = metrics.expose(runtime)
    assert exposition is not None
    try:
        for _ in range(3):
            runtime.decline("toy.silu", Reason.UNSUPPORTED_ARGUMENT)
        labels = 'definition="",op="toy.silu",outcome="fallback",reason="unsupported_argument"'
        assert f"fib_calls_total{{{labels}}} 3.0" in page()
    finally:
        exposition.close()


def test_the_plugin_exposes_while_it_is_active(adapters: Any) -> None:
    plugin.activate(settings.load(), apply=False, tracing=True)
    assert [line for line in page() if line.startswith("fib_info")]
    plugin.deactivate()
    assert page() == []


# ---- prometheus_client: the host's, when and if it wants it ----------------------------------------------------------

_HOST = """
import logging, sys
from pathlib import Path
from types import SimpleNamespace
logging.basicConfig(level=logging.INFO)
import fib_plugin
from fib_plugin import metrics

def expose(written):
    status = {"status": {"capture": {"written": written}}}
    chosen = SimpleNamespace(cache_path=Path("/nonexistent"), disable=False)
    return metrics.expose(SimpleNamespace(settings=chosen, snapshot=lambda: status))

def shown():
    import prometheus_client
    text = prometheus_client.generate_latest(prometheus_client.REGISTRY).decode()
    return [line for line in text.splitlines() if line.startswith("fib_capture_records_total")]
"""


def host(code: str) -> str:
    """What a fresh process prints, on both streams."""
    done = subprocess.run([sys.executable, "-c", _HOST + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_prometheus_client_is_not_imported_for_the_host() -> None:
    # It chooses at import whether it works across processes, by a variable that engines set before they import it.
    assert host("expose(1); print('prometheus_client' in sys.modules)") == "False\n"


def test_a_host_that_imports_it_later_gets_the_latest_runtime() -> None:
    printed = host("expose(1); expose(2); print(shown())")
    assert 'outcome="written",reason=""} 2.0' in printed


def test_a_host_that_imports_it_after_the_end_gets_nothing() -> None:
    assert host("expose(1).close(); print(shown())") == "[]\n"


def test_without_prometheus_client_nothing_happens_and_nothing_is_said() -> None:
    absent = "sys.modules['prometheus_client'] = None\n"
    assert (
        host(absent + "exposition = expose(1); print(exposition is metrics.exposed()); exposition.close()") == "True\n"
    )
