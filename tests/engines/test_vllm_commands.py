"""The command line on what a real vLLM left: harvested references against the engine's ops, hooks, status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fib_plugin.dataset import TraceSet, merge

pytestmark = pytest.mark.engine


def fib(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("FIB_", "VLLM_"))}
    return subprocess.run(
        [sys.executable, "-m", "fib_plugin", *arguments],
        env={**clean, **env},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture(scope="module")
def benched(captured_llama, captured_moe, workspace: Path):
    """Both captures in one dataset, and the engine's own ops measured on it."""
    dataset = workspace / "benched"
    shutil.copytree(captured_llama.dataset, dataset)
    merge(dataset, [captured_moe.dataset], every=True)
    done = fib(
        "bench", "--dataset", str(dataset), "--solutions", "vllm_*", "--workloads", "1", "--threads", "1", "--json"
    )
    assert done.returncode == 0, done.stderr
    return dataset


def test_every_harvested_reference_agrees_with_the_engines_own_op(benched: Path) -> None:
    traces = TraceSet.from_path(benched)
    assert len(traces.definitions) >= 14
    for name in traces.definitions:
        found = {trace.evaluation.status.value: trace.evaluation.log for trace in traces.traces.get(name, [])}
        assert set(found) == {"PASSED"}, (name, found)


def test_doctor_finds_every_hook_of_the_installed_vllm(benched: Path) -> None:
    done = fib("doctor", "--json", FIB_DATASET_PATH=str(benched))
    report = json.loads(done.stdout)
    assert done.returncode == 0
    states = [hook["state"] for hook in report["hooks"]]
    assert states.count("found") >= 12
    assert set(states) <= {"found", "optional", "for other versions", "engine absent"}
    assert report["substitutions"]["silu_and_mul_fp32_d256"] == "no_solution"


def test_doctor_says_what_would_be_substituted(captured_llama, workspace: Path) -> None:
    from engines.forge import forge

    dataset = forge(captured_llama.dataset, workspace / "forged_doctor")
    report = json.loads(fib("doctor", "--json", "--no-hooks", FIB_DATASET_PATH=str(dataset)).stdout)
    assert "marked__silu_and_mul_fp32_d256" in report["substitutions"]["silu_and_mul_fp32_d256"]


def test_status_tells_why_nothing_was_substituted(captured_llama) -> None:
    shown = fib("status", "--cache", str(captured_llama.cache)).stdout
    assert "vllm.gemm" in shown
    assert "FIB_ENABLE_APPLY=1" in shown
