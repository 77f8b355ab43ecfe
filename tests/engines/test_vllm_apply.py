"""Substitution in a real vLLM, eager and compiled: marks change answers, right solutions do not, failures fall back."""

from __future__ import annotations

import pytest

from engines.conftest import SAMPLINGS
from engines.forge import forge

pytestmark = pytest.mark.engine

FAMILIES: dict[str, dict] = {
    "rmsnorm": {},
    "fused_add_rmsnorm": {},
    "silu_and_mul": {},
    "rope": {},
    "gqa_paged_decode": {},
    "gqa_paged_prefill": {},
    "gemm": {},
    **SAMPLINGS,
}

ADAPTER_OF = {
    "rmsnorm": "vllm.norm",
    "fused_add_rmsnorm": "vllm.norm",
    "silu_and_mul": "vllm.activation",
    "rope": "vllm.rope",
    "gqa_paged_decode": "vllm.attention",
    "gqa_paged_prefill": "vllm.attention",
    "gemm": "vllm.gemm",
    **dict.fromkeys(SAMPLINGS, "vllm.sampling"),
}


def _steps() -> list[dict]:
    steps: list[dict] = [{"objects": "installed"}]
    for family, sampling in FAMILIES.items():
        steps.append({"generate": f"right {family}", "sampling": sampling})
        steps.append({"generate": f"marked {family}", "mark": family, "sampling": sampling})
    steps.append({"generate": "marked lm_head", "mark": "gemm_fp32_n640_k128"})
    steps.append({"status": "before raising"})
    steps += [
        {"generate": f"raising {family}", "mark": f"raise:{family}", "sampling": sampling}
        for family, sampling in FAMILIES.items()
    ]
    steps.append({"generate": "seeded", "sampling": {"temperature": 0.8, "top_k": 1, "seed": 5}})
    steps += [{"status": "after raising"}, {"uninstall": True}, {"objects": "uninstalled"}]
    steps += [
        {"generate": f"stock {family}", "mark": family, "sampling": sampling} for family, sampling in FAMILIES.items()
    ]
    return steps


@pytest.fixture(scope="module", params=["eager", "compiled"])
def served(request, drive, captured_llama, workspace):
    dataset = forge(captured_llama.dataset, workspace / f"forged_{request.param}")
    eager = request.param == "eager"
    if not eager:
        # A stock run fills the compile cache first: artifacts made without the plugin must not be used with it.
        drive("stock_compiled", "llama", [{"generate": "stock"}], eager=False)
    return drive(
        f"apply_{request.param}",
        "llama",
        _steps(),
        eager=eager,
        dataset=dataset,
        FIB_ENABLE_APPLY="1",
        PREIMPORT="1",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_solution_leaves_tokens_unchanged(served, family: str) -> None:
    assert served.results[f"right {family}"] == served.results[f"stock {family}"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_watermarked_solution_changes_the_live_answer(served, family: str) -> None:
    assert served.results[f"marked {family}"] != served.results[f"stock {family}"]


def test_lm_head_alone_is_substituted_too(served) -> None:
    assert served.results["marked lm_head"] != served.results["stock gemm"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_raising_solution_is_answered_by_the_engines_op(served, family: str) -> None:
    assert served.results[f"raising {family}"] == served.results[f"stock {family}"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_raising_solution_is_counted_and_out(served, family: str) -> None:
    before = served.results["before raising"]["ops"][ADAPTER_OF[family]]
    after = served.results["after raising"]["ops"][ADAPTER_OF[family]]
    assert before["substituted"] > 0
    assert "solution_raised" not in before["fallbacks"]
    assert after["fallbacks"]["solution_raised"] > 0
    out = {line["solution"].split("__")[1]: line["reason"] for line in served.results["after raising"]["quarantined"]}
    assert any(name.startswith(family.removesuffix("_prefill")) or family in name for name in out), out
    assert set(out.values()) == {"solution_raised"}


def test_a_request_that_the_definition_cannot_express_falls_back_with_its_reason(served) -> None:
    before = served.results["before raising"]["ops"]["vllm.sampling"]["fallbacks"]
    after = served.results["after raising"]["ops"]["vllm.sampling"]["fallbacks"]
    assert after["unsupported_argument"] - before.get("unsupported_argument", 0) == 8


def test_a_failure_is_said_once_with_its_traceback(served) -> None:
    assert served.log.count("marked__silu_and_mul_fp32_d256 is out (solution_raised") == 1
    assert "raised on purpose by silu_and_mul" in served.log


def test_installing_replaces_every_target_and_uninstalling_restores_every_object_by_identity(served) -> None:
    installed, uninstalled = served.results["installed"], served.results["uninstalled"]
    targets = {target["target"] for target in served.results["before raising"]["targets"]}
    # What needs a library that is not here could not be looked at, and waits.
    assert {path for path, own in installed.items() if not own} == targets & set(installed)
    assert len(targets - set(installed)) <= 2
    assert all(uninstalled.values())
