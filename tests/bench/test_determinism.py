"""Two calls on equal inputs: the same bits, or a note that they differ, or a foul where they differ by too much."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_cases import RIGHT, SAMPLER, dataset, solution, workload

from fib_plugin.bench import BenchResult, run_bench

_OTHER_ORDER = """
import random

import torch


def run(x, weight):
    parts = list(x.float().pow(2).split(4, dim=-1))
    random.SystemRandom().shuffle(parts)
    total = torch.zeros(x.shape[0], 1)
    for part in parts:
        total += part.sum(-1, keepdim=True)
    return x * torch.rsqrt(total / x.shape[-1] + 1e-5) * weight
"""

_NOISE = (
    RIGHT
    + """

_right = run


def run(x, weight):
    out = _right(x, weight)
    return out + (torch.randint(0, 2, out.shape) * 2 - 1) * 0.9 * (1e-4 + 1e-4 * out.abs())
"""
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, BenchResult]:
    traces = dataset(
        tmp_path_factory.mktemp("determinism"),
        solution("right", RIGHT),
        solution("other_order", _OTHER_ORDER),
        solution("noise", _NOISE),
        workloads=(workload("w1", batch_size=64),),
    )
    return {one.solution.name: one for one in run_bench(traces, timeout=20.0, threads=1, cache=cache, save=False)}


def noted(result: BenchResult) -> object:
    evaluation = result.trace.evaluation
    assert evaluation is not None
    assert evaluation.correctness is not None
    return (evaluation.correctness.extra or {}).get("deterministic")


def test_the_same_bits_are_on_record(results: dict[str, BenchResult]) -> None:
    assert (results["right"].status.value, noted(results["right"])) == ("PASSED", True)


def test_sums_in_no_fixed_order_are_honest_and_on_record(results: dict[str, BenchResult]) -> None:
    assert (results["other_order"].status.value, noted(results["other_order"])) == ("PASSED", False)


def test_answers_that_differ_by_more_than_the_tolerance_are_a_foul(results: dict[str, BenchResult]) -> None:
    assert results["noise"].status.value == "INCORRECT_NUMERICAL"
    assert results["noise"].log.startswith("[nondeterministic] two answers")


def test_of_a_sampler_nothing_is_said(tmp_path: Path, cache: Path) -> None:
    traces = dataset(
        tmp_path,
        solution("sampler", SAMPLER.reference, SAMPLER),
        workloads=(workload("w1", SAMPLER, batch_size=4),),
        definition=SAMPLER,
    )
    (result,) = run_bench(traces, timeout=20.0, threads=1, cache=cache, save=False)
    assert (result.status.value, noted(result)) == ("PASSED", None)
