"""Norms that leave a compiled vLLM's graph: the rest is compiled as without, and nothing is copied for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engines.forge import forge

pytestmark = pytest.mark.engine

#: Of the test's llama.
LAYERS = 2
NORMS = ("rmsnorm", "fused_add_rmsnorm")


@pytest.fixture(scope="module")
def compiled(drive, workspace, captured_llama):
    """(outcome, generated code) of a compiled engine in which every norm has a solution."""
    dataset = forge(captured_llama.dataset, workspace / "forged_norms")
    steps = [{"generate": mark or "right", "mark": mark} for mark in ("", *NORMS, "raise:fused_add_rmsnorm")]
    steps += [{"status": "status"}, {"uninstall": True}, {"generate": "uninstalled"}]
    outcome = drive(
        "compiled_norms",
        "llama",
        steps,
        eager=False,
        dataset=dataset,
        VLLM_CACHE_ROOT=str(workspace / "compiled_norms.vllm"),
        FIB_ENABLE_APPLY="1",
        FIB_ADAPTERS="vllm.norm",
    )
    assert "uninstalled" in outcome.results, outcome.log[-4000:]
    return outcome, code(workspace / "compiled_norms.vllm")


def code(cache: Path) -> list[str]:
    """What Inductor generated for each part of the model's graph."""
    return [text for path in sorted(cache.rglob("*.py")) if "fib.fused_add_rmsnorm_" in (text := path.read_text())]


def tokens(compiled, name: str) -> list[list[int]]:
    return compiled[0].results[name]


def test_every_norm_is_an_op_that_writes_where_the_engines_kernel_does(compiled) -> None:
    (text,) = compiled[1]
    assert len(re.findall(r"torch\.ops\.fib\.rmsnorm\.default\(", text)) == 1
    assert len(re.findall(r"torch\.ops\.fib\.fused_add_rmsnorm_\.default\(", text)) == 2 * LAYERS


def test_the_compiler_writes_no_kernel_to_copy_for_them(compiled) -> None:
    (text,) = compiled[1]
    body = text[text.index("def call(") :]
    written = re.findall(r"^ +(cpp_fused\w+)\(", body, re.MULTILINE)
    assert len(written) == 1 + 2 * LAYERS, written  # the embedding; rotation and activation of each layer
    assert not re.findall(r"\bcopy_\(|\.clone\(", body)


def test_solutions_answer_fall_back_and_leave_as_in_an_eager_model(compiled, captured_llama) -> None:
    stock = captured_llama.results["greedy"]
    assert tokens(compiled, "right") == tokens(compiled, "raise:fused_add_rmsnorm") == stock
    assert tokens(compiled, "uninstalled") == stock
    assert all(tokens(compiled, mark) != stock for mark in NORMS)
    assert compiled[0].results["status"]["ops"]["vllm.norm"]["fallbacks"]["solution_raised"] > 0
