"""vLLM as people start it: front end and engine core in processes of their own, both switches on, killed at the end."""

from __future__ import annotations

import pytest

from engines.conftest import sampling_steps
from engines.forge import forge
from fib_plugin.dataset import TraceSet, load_counts, merge, validate

pytestmark = pytest.mark.engine

#: One prompt that the capture run did not have, so that a new size is met just before the kill.
NEW = {"generate": "new", "prompts": ["w5 w6 w7 w8 w9 w10 w11 w12 w13"]}


@pytest.fixture(scope="module")
def killed(drive, captured_llama, workspace):
    dataset = forge(captured_llama.dataset, workspace / "forged_processes")
    return drive(
        "processes",
        "llama",
        [*sampling_steps(), NEW, {"kill_children": True}],
        dataset=dataset,
        FIB_ENABLE_APPLY="1",
        FIB_ENABLE_TRACING="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="1",
    )


def test_right_solutions_leave_greedy_tokens_unchanged_in_the_engine_core(killed, captured_llama) -> None:
    assert killed.results["greedy"] == captured_llama.results["greedy"]


def test_the_engine_core_substitutes(killed) -> None:
    substituted = {
        name: sum(file["ops"].get(name, {}).get("substituted", 0) for file in killed.status_files())
        for name in ("vllm.gemm", "vllm.norm", "vllm.activation", "vllm.rope", "vllm.attention", "vllm.sampling")
    }
    assert all(substituted.values()), substituted


def test_what_ran_just_before_sigkill_is_on_disk_and_readable(killed) -> None:
    before = {name: len(found) for name, found in TraceSet.from_path(killed.dataset).workloads.items()}
    report = merge(killed.dataset, every=True)
    traces = TraceSet.from_path(killed.dataset)
    sizes = {trace.workload.axes["batch_size"] for trace in traces.workloads["silu_and_mul_fp32_d256"]}
    assert 9 in sizes or 10 in sizes, (sizes, before, report)
    assert validate(killed.dataset).problems == []


def test_counts_survive_sigkill(killed) -> None:
    assert sum(load_counts(killed.dataset)["silu_and_mul_fp32_d256"].values()) > 0
