"""A definition's evaluation config decides the benchmark's verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_cases import NORM, dataset, solution

from fib_plugin.bench import Progress, run_bench

_RIGHT = "import torch\n\n\ndef run(x, weight):\n    y = torch.nn.functional.rms_norm(x, (64,), weight, 1e-5)\n"
OFF = solution("off", _RIGHT + "    return y + 0.01\n")
ONE_OFF = solution("one_off", _RIGHT + "    y[0, 0] += 1\n    return y\n")
IN_PLACE = solution("in_place", _RIGHT + "    x.copy_(y)\n    return y\n")


def statuses(root: Path, cache: Path, sidecar: str) -> dict[str, str]:
    traces = dataset(root, OFF, ONE_OFF, IN_PLACE)
    if sidecar:
        file = root / "fib" / "evaluation" / NORM.op_type / f"{NORM.name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(sidecar)
    return {result.solution.name: result.status.value for result in run_bench(traces, cache=cache)}


@pytest.mark.parametrize(
    ("sidecar", "passed"),
    [
        ("", set()),
        ("atol: 0.02\n", {"off"}),
        ("matched_ratio: 0.99\n", {"one_off"}),
        ("mutates: [hidden_states]\n", {"in_place"}),
    ],
)
def test_a_sidecar_changes_the_verdict(sidecar: str, passed: set[str], tmp_path: Path, cache: Path) -> None:
    found = statuses(tmp_path, cache, sidecar)
    assert {name for name, status in found.items() if status == "PASSED"} == passed
    assert {status for name, status in found.items() if name not in passed} == {"INCORRECT_NUMERICAL"}


def test_a_sidecar_that_cannot_be_used_leaves_the_definition_out(tmp_path: Path, cache: Path) -> None:
    traces = dataset(tmp_path, OFF)
    file = tmp_path / "fib" / "evaluation" / NORM.op_type / f"{NORM.name}.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("atoll: 1\n")
    told: list[Progress] = []
    assert run_bench(traces, progress=told.append, cache=cache) == []
    assert ["atoll" in progress.problem for progress in told if progress.problem] == [True]
    assert (told[-1].done, told[-1].total) == (1, 1)
