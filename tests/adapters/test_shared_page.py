"""The page that several processes of one engine share shows the plugin's metrics beside the engine's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("prometheus_client")
from fib_plugin.adapters.live.metrics import SharedPage
from fib_plugin.adapters.sglang.metrics import Metrics as OfSglang
from fib_plugin.adapters.vllm.metrics import Metrics as OfVllm
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from fib_plugin import metrics
from fib_plugin.adapter import Engine, check
from fib_plugin.patch import Installation

ORIGINAL = MultiProcessCollector.collect
VERSIONS = {OfVllm: "0.32.0", OfSglang: "0.5.18"}


@pytest.fixture(params=VERSIONS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[SharedPage]:
    """The adapter in a process that has its engine."""
    version = VERSIONS[request.param]
    monkeypatch.setattr(Engine, "version", lambda engine: version)
    found: type[SharedPage] = request.param
    return found


@pytest.fixture
def runtime(tmp_path: Path) -> Any:
    status = {"quarantined": [{"solution": "bad"}]}
    chosen = SimpleNamespace(cache_path=tmp_path, disable=False)
    return SimpleNamespace(settings=chosen, snapshot=lambda: {"calls": {}, "status": status})


@pytest.fixture
def installation(runtime: Any, kind: type[SharedPage]) -> Iterator[Installation]:
    installation = Installation([kind(runtime)])
    installation.install()
    yield installation
    installation.uninstall()
    if (exposition := metrics.exposed()) is not None:
        exposition.close()


def page(folder: Path) -> list[str]:
    """Samples on a page as vLLM's route makes it: from a registry of that very moment."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    return [line for line in generate_latest(registry).decode().splitlines() if line.startswith("fib_q")]


def test_the_adapter_is_declared_well(kind: type[SharedPage]) -> None:
    check(kind)
    assert kind.support


def test_every_page_shows_what_is_exposed(installation: Installation, runtime: Any, tmp_path: Path) -> None:
    assert [patch.state for patch in installation.patches] == ["patched"]
    metrics.expose(runtime)
    for _ in range(2):
        assert page(tmp_path) == ["fib_quarantined 1.0"]


def test_the_engines_own_metrics_stay_first(installation: Installation, runtime: Any, tmp_path: Path) -> None:
    metrics.expose(runtime)
    own = [SimpleNamespace(name="vllm:one")]
    collect = OfVllm(runtime).collect(lambda collector: own)
    names = [family.name for family in collect(object())]
    assert names[0] == "vllm:one"
    assert "fib_quarantined" in names


def test_without_an_exposition_the_page_is_the_engines(installation: Installation, tmp_path: Path) -> None:
    assert page(tmp_path) == []


def test_uninstalled_the_collector_is_the_engines_own_object(
    installation: Installation, runtime: Any, tmp_path: Path
) -> None:
    metrics.expose(runtime)
    assert MultiProcessCollector.collect is not ORIGINAL
    installation.uninstall()
    assert MultiProcessCollector.collect is ORIGINAL
    assert page(tmp_path) == []


def test_a_replacement_that_the_engine_kept_falls_silent(runtime: Any, kind: type[SharedPage]) -> None:
    metrics.expose(runtime)
    adapter = kind(runtime)
    kept = adapter.collect(lambda collector: [])
    assert kept(object()) != []
    adapter.live = False
    assert kept(object()) == []
    exposition = metrics.exposed()
    assert exposition is not None
    exposition.close()
