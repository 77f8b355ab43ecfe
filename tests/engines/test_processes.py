"""vLLM as people start it: front end and engine core in processes of their own, both switches on, killed at the end."""

from __future__ import annotations

import pytest

from engines.conftest import sampling_steps
from engines.forge import forge
from fib_plugin.dataset import TraceSet, load_counts, merge, validate

pytestmark = pytest.mark.engine

#: One prompt that the capture run did not have, so that a new size is met just before the kill.
NEW = {"generate": "new", "prompts": ["w5 w6 w7 w8 w9 w3 w4 w5 w6"]}


@pytest.fixture(scope="module")
def killed(drive, captured_llama, workspace):
    dataset = forge(captured_llama.dataset, workspace / "forged_processes")
    return drive(
        "processes",
        "llama",
        # Counts are flushed every second; what is new reaches the disk at once.
        [*sampling_steps(), {"wait": 2.5}, NEW, {"kill_children": True}],
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
    merge(killed.dataset, every=True)
    kept = TraceSet.from_path(killed.dataset).workloads["silu_and_mul_fp32_d256"]
    assert 9 in {trace.workload.axes["batch_size"] for trace in kept}
    assert validate(killed.dataset).problems == []


def test_counts_survive_sigkill(killed, captured_llama) -> None:
    before, after = (
        sum(load_counts(outcome.dataset)["silu_and_mul_fp32_d256"].values()) for outcome in (captured_llama, killed)
    )
    # Both ran the same 4 generations; the forged dataset began with the counts of the first.
    assert after > 1.5 * before
