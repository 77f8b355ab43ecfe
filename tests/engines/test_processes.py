"""Engines as people start them: the model in a process of its own, both switches on, that process killed at the end."""

from __future__ import annotations

import pytest

from engines.conftest import sampling_steps
from engines.forge import forge
from fib_plugin.dataset import TraceSet, load_counts, merge, validate

pytestmark = pytest.mark.engine

#: One prompt that the capture run did not have, so that a new size is met a second before the kill.
NEW = {"generate": "new", "prompts": ["w5 w6 w7 w8 w9 w3 w4 w5 w6"]}


@pytest.fixture(scope="module", params=["vllm", "sglang"])
def captured(request):
    return request.getfixturevalue("captured_sglang" if request.param == "sglang" else "captured_llama")


@pytest.fixture(scope="module")
def killed(drive, captured, workspace):
    sizes = range(1, 18) if captured.engine == "sglang" else ()
    dataset = forge(captured.dataset, workspace / f"forged_processes_{captured.engine}", sizes=sizes)
    # A kill may cost the last second; SGLang's front end answers while its scheduler is still at work.
    pause = {"wait": 1.5 if captured.engine == "sglang" else 1.0}
    return drive(
        f"processes_{captured.engine}",
        "llama",
        # Counts are flushed every second; what is new reaches the disk sooner, but its writes are gathered.
        [*sampling_steps(engine=captured.engine), {"wait": 2.5}, NEW, pause, {"kill_children": True}],
        dataset=dataset,
        engine=captured.engine,
        FIB_ENABLE_APPLY="1",
        FIB_ENABLE_TRACING="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="1",
    )


def test_right_solutions_leave_greedy_tokens_unchanged_in_the_engine_core(killed, captured) -> None:
    assert killed.results["greedy"] == captured.results["greedy"]


def test_the_engine_core_substitutes(killed) -> None:
    substituted = {
        name: sum(file["ops"].get(name, {}).get("substituted", 0) for file in killed.status_files())
        for op in ("gemm", "norm", "activation", "rope", "attention", "sampling")
        for name in (f"{killed.engine}.{op}",)
    }
    assert all(substituted.values()), substituted


def test_what_ran_a_second_before_sigkill_is_on_disk_and_readable(killed) -> None:
    merge(killed.dataset, every=True)
    kept = TraceSet.from_path(killed.dataset).workloads["silu_and_mul_fp32_d256"]
    assert 9 in {trace.workload.axes["batch_size"] for trace in kept}
    assert validate(killed.dataset).problems == []


def test_counts_survive_sigkill(killed, captured) -> None:
    before, after = (
        sum(load_counts(outcome.dataset)["silu_and_mul_fp32_d256"].values()) for outcome in (captured, killed)
    )
    # Both ran the same 4 generations; the forged dataset began with the counts of the first.
    assert after > 1.5 * before
