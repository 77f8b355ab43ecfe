"""The tuner's report and table, with a made-up GPU: times decide, and other devices' measurements stay."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_tune
import pytest
import torch
import tune_plans

FASTEST = "ring<1, 1, 8, 512, 1>"


class Bench:
    """In place of the one that runs on a GPU: a graph is its plan's name, and one plan is wrong."""

    def __init__(self, weights: list[torch.Tensor], m: int) -> None:
        self.shape = weights[0].shape

    def problem(self, call: Any) -> str | None:
        return "wrong: off by 1" if call == "ring<1, 1, 4, 512, 1>" else None

    def graph(self, call: Any, after_ours: bool) -> Any:
        return ("cuBLAS" if call is gpu_tune.linear else call, after_ours)


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    facts = SimpleNamespace(major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    monkeypatch.setattr(gpu_tune, "memory_rate", lambda: 4916)
    monkeypatch.setattr(gpu_tune, "Bench", Bench)
    monkeypatch.setattr(gpu_tune, "SHAPES", {"o": (64, 32, False), "down": (32, 64, True)})
    monkeypatch.setattr(gpu_tune, "COLD_BYTES", 3 * 2 * 64 * 32)
    monkeypatch.setattr(torch, "randn", lambda *shape, device, dtype: torch.zeros(*shape, dtype=dtype))
    monkeypatch.setattr(tune_plans, "SOURCE", tmp_path)

    def in_turns(graphs: dict[str, Any], rounds: int) -> dict[str, float]:
        return {name: 30.0 if graph[0] == FASTEST else 45.0 for name, graph in graphs.items()}

    monkeypatch.setattr(gpu_tune, "in_turns", in_turns)

    def run(stop_in: float = math.inf) -> dict[str, Any]:
        file = tmp_path / "report.json"
        found = gpu_tune.Found(file, {}, header=True)
        calls = {plan: plan for plans in tune_plans.PLANS.values() for plan in plans}
        for name in gpu_tune.SHAPES:
            gpu_tune.tune(name, [1, 16], calls, found, time.monotonic() + stop_in)
            found.write()
        content: dict[str, Any] = json.loads(file.read_text())
        return content

    return run


def test_the_fastest_right_plan_comes_into_the_table_and_the_header(
    tuned: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    report = tuned()
    device = report["devices"]["NVIDIA H200"]
    assert device["table"][0] == {"N": 64, "K": 32, "most_M": 1, "plan": FASTEST}
    line = device["products"][0]
    assert (line["cuBLAS_us"], line["best_us"], line["ratio"]) == (15.0, 10.0, 1.5)  # of three layers
    assert line["refused_or_wrong"] == {"ring<1, 1, 4, 512, 1>": "wrong: off by 1"}
    assert [one["after"] for one in device["products"]] == ["a kernel of torch"] * 2 + ["silu_and_mul_cuda"] * 2
    assert (tmp_path / "tuned.h").read_text() == tune_plans.header(report)
    assert f"{{0, 64, 32, 1, {FASTEST}}}" in (tmp_path / "tuned.h").read_text()


def test_other_devices_stay(tuned: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    other = {"major": 9, "minor": 0, "gigabytes_per_second": 3352, "table": []}
    (tmp_path / "report.json").write_text(json.dumps({"devices": {"NVIDIA H100 80GB HBM3": other}}))
    assert tuned()["devices"]["NVIDIA H100 80GB HBM3"] == other


def test_what_is_measured_again_replaces_what_was(tuned: Callable[..., dict[str, Any]]) -> None:
    assert tuned()["devices"] == tuned()["devices"]
    assert len(tuned(stop_in=-1.0)["devices"]["NVIDIA H200"]["table"]) == 4


def test_what_no_time_is_left_for_is_left_out(tuned: Callable[..., dict[str, Any]]) -> None:
    device = tuned(stop_in=-1.0)["devices"]["NVIDIA H200"]
    assert (device["products"], device["table"]) == ([], [])


def test_a_plan_is_checked_against_its_own_rows_after_others_have_run() -> None:
    """What runs before a product in a graph writes the rows; a check that took those found all but one plan wrong."""
    bench = gpu_tune.Bench([torch.randn(16, 32)], 3)
    assert bench.problem(gpu_tune.linear) is None
    bench._run(gpu_tune.linear, after_ours=False)
    assert bench.problem(gpu_tune.linear) is None
    assert bench.problem(lambda a, b, c: c.zero_()) == "wrong: off by 1"
