"""Substitution in real engines (vLLM eager and compiled, SGLang): marks change answers, right solutions do not."""

from __future__ import annotations

import pytest

from engines.conftest import CERTAIN, SAMPLINGS, samplings
from engines.forge import forge
from engines.steps import PROMPTS, token_ids

pytestmark = pytest.mark.engine

FAMILIES = (
    "rmsnorm",
    "fused_add_rmsnorm",
    "silu_and_mul",
    "rope",
    "gqa_paged_decode",
    "gqa_paged_prefill",
    "gemm",
    *SAMPLINGS,
)

ADAPTER_OF = {
    "rmsnorm": "norm",
    "fused_add_rmsnorm": "norm",
    "silu_and_mul": "activation",
    "rope": "rope",
    "gqa_paged_decode": "attention",
    "gqa_paged_prefill": "attention",
    "gemm": "gemm",
    **dict.fromkeys(SAMPLINGS, "sampling"),
}

#: What no definition of a sampler holds: seeds in both engines, min-p in SGLang's (its seeds need another mode).
INEXPRESSIBLE = {"vllm": {"top_k": 1, "seed": 5}, "sglang": {"top_k": 2, "min_p": 0.1}}


def _steps(engine: str) -> list[dict]:
    own = {family: samplings(engine).get(family, {}) for family in FAMILIES}
    steps: list[dict] = [{"objects": "installed"}]
    for family, sampling in own.items():
        steps.append({"generate": f"right {family}", "sampling": sampling})
        steps.append({"generate": f"marked {family}", "mark": family, "sampling": sampling})
    steps.append({"generate": "marked lm_head", "mark": "gemm_fp32_n640_k128"})
    steps.append({"status": "before raising"})
    steps += [
        {"generate": f"raising {family}", "mark": f"raise:{family}", "sampling": sampling}
        for family, sampling in own.items()
    ]
    steps.append({"generate": "inexpressible", "sampling": {"temperature": 0.8, **INEXPRESSIBLE[engine]}})
    steps += [{"status": "after raising"}, {"uninstall": True}, {"objects": "uninstalled"}]
    steps += [{"generate": f"stock {family}", "mark": family, "sampling": sampling} for family, sampling in own.items()]
    return steps


@pytest.fixture(scope="module", params=["vllm", "vllm compiled", "sglang"])
def served(request, drive, workspace):
    engine, _, compiled = request.param.partition(" ")
    captured = request.getfixturevalue("captured_sglang" if engine == "sglang" else "captured_llama")
    name = request.param.replace(" ", "_")
    # SGLang puts requests together as they come.
    sizes = range(1, 18) if engine == "sglang" else ()
    dataset = forge(captured.dataset, workspace / f"forged_{name}", sizes=sizes)
    if compiled:
        # A stock run fills the compile cache first: artifacts made without the plugin must not be used with it.
        drive("stock_compiled", "llama", [{"generate": "stock"}], eager=False)
    switches = {"FIB_ENABLE_APPLY": "1", "PREIMPORT": "1"}
    return drive(
        f"apply_{name}", "llama", _steps(engine), eager=not compiled, dataset=dataset, engine=engine, **switches
    )


def tokens(served, name: str) -> list[list[int]]:
    """Of the prompts whose tokens are certain."""
    assert name in served.results, served.log[-4000:]
    return served.results[name][:CERTAIN]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_solution_leaves_tokens_unchanged(served, family: str) -> None:
    assert tokens(served, f"right {family}") == tokens(served, f"stock {family}")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_watermarked_solution_changes_the_live_answer(served, family: str) -> None:
    assert tokens(served, f"marked {family}") != tokens(served, f"stock {family}")


def test_lm_head_alone_is_substituted_too(served) -> None:
    assert tokens(served, "marked lm_head") != tokens(served, "stock gemm")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_raising_solution_is_answered_by_the_engines_op(served, family: str) -> None:
    assert tokens(served, f"raising {family}") == tokens(served, f"stock {family}")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_raising_solution_is_counted_and_out(served, family: str) -> None:
    before = served.results["before raising"]["ops"][f"{served.engine}.{ADAPTER_OF[family]}"]
    after = served.results["after raising"]["ops"][f"{served.engine}.{ADAPTER_OF[family]}"]
    assert before["substituted"] > 0
    assert "solution_raised" not in before["fallbacks"]
    assert after["fallbacks"]["solution_raised"] > 0
    out = {line["solution"].split("__")[1]: line["reason"] for line in served.results["after raising"]["quarantined"]}
    assert any(name.startswith(family.removesuffix("_prefill")) or family in name for name in out), out
    assert set(out.values()) == {"solution_raised"}


def test_a_request_that_the_definition_cannot_express_falls_back_with_its_reason(served) -> None:
    before, after = (
        served.results[moment]["ops"][f"{served.engine}.sampling"]["fallbacks"].get("unsupported_argument", 0)
        for moment in ("before raising", "after raising")
    )
    # One call a step, more only where the requests did not all begin in the same one.
    assert after - before == 8 or (served.engine == "sglang" and 8 < after - before <= 24)


def test_a_failure_is_said_once_with_its_traceback(served) -> None:
    assert served.log.count("marked__silu_and_mul_fp32_d256 is out (solution_raised") == 1
    assert "raised on purpose by silu_and_mul" in served.log


def test_installing_replaces_every_target_and_uninstalling_restores_every_object_by_identity(served) -> None:
    installed, uninstalled = served.results["installed"], served.results["uninstalled"]
    found = served.results["before raising"]["targets"]
    targets = {target["target"] for target in found if target["state"] != "for other versions"}
    # What needs a library that is not here could not be looked at, and waits.
    assert {path for path, own in installed.items() if not own} == targets & set(installed)
    assert len(targets - set(installed)) <= 2
    assert all(uninstalled.values())


def test_sglang_itself_puts_our_hooks_in_place(served) -> None:
    ways = {target["detail"] for target in served.results["before raising"]["targets"] if target["state"] == "patched"}
    assert ways == ({"by the engine's registry"} if served.engine == "sglang" else {""})


def test_in_float32_the_tokens_are_those_of_transformers(served, checkpoint) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint("llama"), dtype=torch.float32).eval()
    for prompt, got in zip(PROMPTS, served.results["right gemm"], strict=True):
        ids = torch.tensor([token_ids(prompt)])
        with torch.no_grad():
            for _ in range(len(got)):
                ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
        assert ids[0, -len(got) :].tolist() == got
