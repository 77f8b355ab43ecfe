"""Artifacts of vLLM's compiler in one cache folder: each set of adapters, and the stock engine, has its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.forge import forge

pytestmark = pytest.mark.engine

#: Marks of ops inside of the graph (lm_head is not) that only one of the two sets of adapters hooks.
NORM, LINEAR = "rmsnorm", "gemm_fp32_n512_k128"
OWN, OTHER = {"norms": NORM, "linears": LINEAR}, {"norms": LINEAR, "linears": NORM}
ADAPTERS = {"norms": "vllm.norm", "linears": "vllm.gemm"}
#: Engine starts in their order. With one key for all, each would load what the first one left: the stock engine a graph
#: with ops that it does not know, ``linears`` one whose linear layers are the engine's own.
STARTS = ("norms", "stock", "linears", "norms again")
#: What the engine says of a kept graph.
LOADED, FAILED = "Directly load AOT compilation", "due to a load failure"


class Shared:
    """Starts engines on one cache folder, each when a test first asks for it and after those before it."""

    def __init__(self, start: Callable[[str], Any], cache: Path) -> None:
        self._start = start
        self._cache = cache
        self._found: dict[str, tuple[Any, frozenset[str]]] = {}

    def __getitem__(self, start: str) -> tuple[Any, frozenset[str]]:
        """What the engine left, and the artifacts that it added to the folder."""
        for name in STARTS[: STARTS.index(start) + 1]:
            if name not in self._found:
                before = artifacts(self._cache)
                outcome = self._start(name)
                self._found[name] = (outcome, artifacts(self._cache) - before)
        return self._found[start]


@pytest.fixture(scope="module")
def shared(drive, workspace, captured_llama) -> Shared:
    cache = workspace / "shared_vllm_cache"
    forged = forge(captured_llama.dataset, workspace / "forged_shared_cache")
    steps = [{"generate": mark or "right", "mark": mark} for mark in ("", NORM, LINEAR)] + [{"status": "status"}]

    def start(name: str) -> Any:
        adapters = ADAPTERS.get(name.split()[0])
        # Nothing of vLLM's own differs between the starts: its variables are part of its key, too.
        ours = {"FIB_ENABLE_APPLY": "1", "FIB_ADAPTERS": adapters} if adapters else {}
        own = {"VLLM_CACHE_ROOT": str(cache), "FIB_TEST_LOAD_KEPT": "1"}
        job = f"shared_{name.replace(' ', '_')}"
        return drive(job, "llama", steps, eager=False, dataset=forged, **own, **ours)

    return Shared(start, cache)


def artifacts(cache: Path) -> frozenset[str]:
    """Graphs that are kept whole, each in the folder of its key."""
    return frozenset(path.parent.parent.name for path in cache.rglob("model") if path.is_file())


def tokens(shared: Shared, start: str, mark: str = "right") -> list[list[int]]:
    outcome = shared[start][0]
    assert mark in outcome.results, outcome.log[-4000:]
    return outcome.results[mark]


@pytest.mark.parametrize("start", STARTS)
def test_right_solutions_and_none_answer_alike_whatever_is_in_the_folder(shared, captured_llama, start: str) -> None:
    assert tokens(shared, start) == captured_llama.results["greedy"]


@pytest.mark.parametrize("start", [start for start in STARTS if start != "stock"])
def test_a_watermark_shows_exactly_where_its_adapter_is_on(shared, start: str) -> None:
    hooked = start.split()[0]
    assert tokens(shared, start, OWN[hooked]) != tokens(shared, start)
    assert tokens(shared, start, OTHER[hooked]) == tokens(shared, start)


@pytest.mark.parametrize("mark", [NORM, LINEAR])
def test_the_stock_engine_gets_nothing_of_what_the_plugin_left(shared, mark: str) -> None:
    assert tokens(shared, "stock", mark) == tokens(shared, "stock")
    assert shared["stock"][0].results["status"] is None


@pytest.mark.parametrize("start", ["norms", "stock", "linears"])
def test_each_compiles_a_graph_of_its_own(shared, start: str) -> None:
    assert len(shared[start][1]) == 1
    assert LOADED not in shared[start][0].log
    assert FAILED not in shared[start][0].log


def test_the_same_adapters_load_the_graph_that_they_left(shared) -> None:
    """And it runs their solutions: the marks of that start are looked at above."""
    assert shared["norms again"][1] == frozenset()
    assert LOADED in shared["norms again"][0].log
