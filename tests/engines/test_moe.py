"""Substitution of routed experts in real engines, by solutions for the definition that vLLM's capture brought."""

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


@pytest.fixture(scope="module", params=["vllm", "vllm compiled", "sglang"])
def served(request, drive, captured_moe, workspace):
    engine, _, compiled = request.param.partition(" ")
    name = request.param.replace(" ", "_")
    dataset = forge(captured_moe.dataset, workspace / f"forged_moe_{name}", experts_only, sizes=range(1, 18))
    # Dynamo without Inductor: the graph holds the same ops and starts in half the time.
    quick = {"VLLM_CPU_CI_ENV": "1"} if compiled else {}
    return drive(
        f"moe_{name}",
        "qwen3_moe",
        STEPS,
        eager=not compiled,
        dataset=dataset,
        engine=engine,
        FIB_ENABLE_APPLY="1",
        **quick,
    )


def test_right_experts_leave_tokens_unchanged(served) -> None:
    assert served.results["right"] == served.results["stock"]


def test_watermarked_experts_change_the_live_answer(served) -> None:
    assert served.results["marked"] != served.results["stock"]


def test_raising_experts_are_answered_by_the_engine(served) -> None:
    assert served.results["raising"] == served.results["stock"]
    assert served.results["after raising"]["ops"][f"{served.engine}.moe"]["fallbacks"]["solution_raised"] > 0


def test_ops_without_a_proven_solution_are_not_patched(served) -> None:
    status = served.results["before raising"]
    assert set(status["ops"]) == {f"{served.engine}.moe"}
    support = {f"{served.engine}.metrics"} | ({"vllm.compile_cache"} if served.engine == "vllm" else set())
    assert {target["adapter"] for target in status["targets"]} == {f"{served.engine}.moe", *support}
    assert any(f"{served.engine}.norm: not installed" in note for note in status["notes"])


def test_the_definition_is_the_one_that_the_other_engine_captured(served) -> None:
    (only,) = served.results["before raising"]["ops"][f"{served.engine}.moe"]["definitions"]
    assert only == "moe_fp32_topk2_e4_h128_i64"
    assert served.results["before raising"]["ops"][f"{served.engine}.moe"]["substituted"] > 0
