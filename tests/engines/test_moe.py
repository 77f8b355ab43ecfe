"""Substitution of routed experts in a real vLLM, eager and compiled."""

from __future__ import annotations

import pytest

from engines.forge import forge, marked_solution
from fib_plugin import ops

pytestmark = pytest.mark.engine

STEPS = [
    {"generate": "right"},
    {"generate": "marked", "mark": "moe"},
    {"status": "before raising"},
    {"generate": "raising", "mark": "raise:moe"},
    {"status": "after raising"},
    {"uninstall": True},
    {"generate": "stock", "mark": "moe"},
]


def experts_only(definition):
    return marked_solution(definition) if ops.family_of(definition).family == "moe" else None


@pytest.fixture(scope="module", params=["eager", "compiled"])
def served(request, drive, captured_moe, workspace):
    dataset = forge(captured_moe.dataset, workspace / f"forged_moe_{request.param}", experts_only)
    # Dynamo without Inductor: the graph holds the same ops and starts in half the time.
    quick = {"VLLM_CPU_CI_ENV": "1"} if request.param == "compiled" else {}
    eager = request.param == "eager"
    return drive(
        f"moe_{request.param}", "qwen3_moe", STEPS, eager=eager, dataset=dataset, FIB_ENABLE_APPLY="1", **quick
    )


def test_right_experts_leave_tokens_unchanged(served) -> None:
    assert served.results["right"] == served.results["stock"]


def test_watermarked_experts_change_the_live_answer(served) -> None:
    assert served.results["marked"] != served.results["stock"]


def test_raising_experts_are_answered_by_the_engine(served) -> None:
    assert served.results["raising"] == served.results["stock"]
    assert served.results["after raising"]["ops"]["vllm.moe"]["fallbacks"]["solution_raised"] > 0


def test_ops_without_a_proven_solution_are_not_patched(served) -> None:
    status = served.results["before raising"]
    assert set(status["ops"]) == {"vllm.moe"}
    assert {target["adapter"] for target in status["targets"]} == {"vllm.moe", "vllm.compile_cache", "vllm.metrics"}
    assert any("vllm.norm: not installed" in note for note in status["notes"])
