"""One definition, whichever engine serves: captured in both alike, and a solution that was benched on vLLM's calls runs
in SGLang.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engines.conftest import Outcome, sglang_process
from fib_plugin import ops
from fib_plugin.dataset import TraceSet, load_measurements, merge
from fib_plugin.pack import pack

pytestmark = pytest.mark.engine

#: Wins by far over the torch ops that SGLang's CPU engine runs.
KERNEL = "rmsnorm_cpp"


def test_both_engines_harvest_the_same_definitions(captured_llama: Outcome, captured_sglang: Outcome) -> None:
    vllm, sglang = (TraceSet.from_path(each.dataset).definitions for each in (captured_llama, captured_sglang))
    assert set(vllm) == set(sglang)
    for name, definition in vllm.items():
        assert ops.structure(definition) == ops.structure(sglang[name]), name
        assert definition.axes == sglang[name].axes, name
        assert definition.reference == sglang[name].reference, name


def test_captures_of_both_engines_merge_without_a_conflict(
    captured_llama: Outcome, captured_sglang: Outcome, tmp_path: Path
) -> None:
    shutil.copytree(captured_llama.dataset, tmp_path / "merged")
    report = merge(tmp_path / "merged", [captured_sglang.dataset], every=True)
    assert not report.problems
    merged = TraceSet.from_path(tmp_path / "merged")
    engines = {s.name.split("_")[0] for s in merged.solutions["gemm_fp32_n256_k128"] if s.author == "engine"}
    assert engines == {"vllm", "sglang"}


@pytest.fixture(scope="module")
def served(drive, captured_llama: Outcome, captured_sglang: Outcome, workspace: Path) -> Outcome:
    """SGLang with a kernel that was measured on the calls that vLLM made, against SGLang's own op."""
    dataset, name = workspace / "benched_for_sglang", "benched_for_sglang_applied"
    shutil.copytree(captured_llama.dataset, dataset)
    merge(dataset, every=True)
    pack(dataset)
    traces = TraceSet.from_path(dataset)
    for definition, solutions in TraceSet.from_path(captured_sglang.dataset).solutions.items():
        if ops.family_of(traces.definitions[definition]).op_type == "rmsnorm":
            for solution in solutions:
                traces.add_solution(solution)
    python, variables = sglang_process(workspace)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FIB_")}
    own = {"FIB_DATASET_PATH": dataset, "FIB_CACHE_PATH": workspace / f"{name}.cache"}
    own["FIB_LOCK_PATH"] = dataset.parent / f"{dataset.name}.lock"
    environment = {**clean, **variables, **{key: str(value) for key, value in own.items()}}
    for arguments in (
        ("bench", "--op-type", "rmsnorm", "--solutions", f"{KERNEL}*", "--workloads", "3", "--threads", "1", "--json"),
        ("trust", "add", f"{KERNEL}*"),
    ):
        command = [python, "-m", "fib_plugin", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    steps = [{"generate": "greedy"}, {"status": "status"}]
    return drive(name, "llama", steps, dataset=dataset, engine="sglang", FIB_ENABLE_APPLY="1")


def test_it_was_measured_on_calls_of_vllm_against_the_op_of_sglang(served: Outcome, captured_llama: Outcome) -> None:
    known = {t.workload.uuid for kept in TraceSet.from_path(captured_llama.dataset).workloads.values() for t in kept}
    found = [m for m in load_measurements(served.dataset) if m.solution.startswith(KERNEL)]
    assert found
    for measurement in found:
        assert measurement.workload in known
        assert measurement.baseline.startswith("sglang_")
        assert measurement.status == "PASSED"


def test_sglang_runs_it(served: Outcome) -> None:
    norm = served.results["status"]["ops"]["sglang.norm"]
    assert norm["substituted"] > 0
    solutions = {line["solution"] for line in norm["definitions"].values() if line["solution"]}
    assert {name.partition("__")[0] for name in solutions} == {KERNEL}


def test_the_tokens_stay_the_same(served: Outcome, captured_sglang: Outcome) -> None:
    assert served.results["greedy"] == captured_sglang.results["greedy"]
