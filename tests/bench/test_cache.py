"""How many input sets take turns, and whether a call finds its inputs in the cache."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bench_cases import NORM, RIGHT, dataset, solution, workload

from fib_plugin.bench import bandwidth, case, run_bench
from fib_plugin.bench.cache import MANY_SETS, Cache

MB = 1 << 20


@pytest.mark.parametrize(
    ("size", "cache", "sets", "state"),
    [
        (10 * MB, 50 * MB, 10, "cold"),
        (9 * MB, 50 * MB, 12, "cold"),
        (8 * MB, 50 * MB, 12, "warm"),
        (4096, 50 * MB, 12, "warm"),
        (200 * MB, 50 * MB, 2, "cold"),
        (900 * MB, 50 * MB, 1, "cold"),
        (0, 50 * MB, 12, "warm"),
    ],
)
def test_a_round_of_cold_sets_is_twice_the_cache(size: int, cache: int, sets: int, state: str) -> None:
    assert Cache.of(size, cache) == Cache(sets, state)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "sets", "state"),
    [(4096, 256, "warm"), (MB, 64, "warm"), (4 * MB, 16, "warm"), (6 * MB, 12, "warm"), (10 * MB, 10, "cold")],
)
def test_a_cpu_has_more_sets_of_small_inputs(size: int, sets: int, state: str) -> None:
    assert Cache.of(size, 50 * MB, many=MANY_SETS) == Cache(sets, state)  # type: ignore[arg-type]


def test_a_warm_cache_can_be_asked_for_and_is_remembered_where_it_makes_a_difference() -> None:
    assert Cache.of(10 * MB, 50 * MB, warm=True) == Cache(1, "warm", asked=True)
    assert Cache.of(4096, 50 * MB, warm=True) == Cache(1, "warm", asked=False)


def test_on_a_gpu_its_own_cache_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda which: SimpleNamespace(L2_cache_size=50 * MB))
    assert bandwidth.cache_bytes("cuda:1") == 50 * MB
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda which: SimpleNamespace())
    assert bandwidth.cache_bytes("cuda") == 64 * MB


@pytest.mark.parametrize("told", [0, -1, OSError])
def test_a_cpu_that_does_not_tell_has_a_cache_of_a_common_size(
    told: int | type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(name: str) -> int:
        if isinstance(told, int):
            return told
        raise told

    monkeypatch.setattr(bandwidth.os, "sysconf", ask)
    assert bandwidth.cache_bytes("cpu") == 32 * MB


@pytest.mark.parametrize("warm", [False, True])
def test_the_state_of_the_cache_goes_on_record_and_a_warm_one_wins_nothing(
    warm: bool, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case, "cache_bytes", lambda device: 1 << 16)
    engine = solution("engine_op", NORM.reference, author="engine")
    traces = dataset(tmp_path, engine, solution("one", RIGHT), workloads=(workload("w1", batch_size=512),))
    results = {one.solution.name: one for one in run_bench(traces, threads=1, cache=cache, warm=warm)}
    found = results["one"].measurement
    assert (found.status, found.cache, found.baseline) == ("PASSED", "warm" if warm else "cold", "engine_op")
    assert found.ratio is not None
    assert found.ratio_low is not None
    assert found.ratio > 0.0
    assert (found.ratio_low == 0.0) is ("--warm" in found.doubt) is warm
