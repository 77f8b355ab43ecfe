"""Probation in a real vLLM: wrong solutions never answer, right and slow ones neither, right and fast ones do."""

from __future__ import annotations

import pytest

from engines.conftest import SAMPLINGS
from engines.forge import forge, marked_solution
from fib_plugin import ops
from fib_plugin.build import precompile
from fib_plugin.dataset import TraceSet, load_measurements
from fib_plugin.pack import pack

pytestmark = pytest.mark.engine

FAMILIES = ("rmsnorm", "fused_add_rmsnorm", "silu_and_mul", "rope", "gemm", "gqa_paged", *SAMPLINGS)
#: Shipped kernels that win by far on a CPU, so that a noisy machine does not change the verdict.
FAST = ("rmsnorm_cpp", "sampling_cpp")


def _steps(mark: str) -> list[dict]:
    steps: list[dict] = []
    for turn in ("first", "second"):
        steps.append({"generate": f"{turn} greedy", "mark": mark})
        steps += [{"generate": f"{turn} {name}", "sampling": each, "mark": mark} for name, each in SAMPLINGS.items()]
    return [*steps, {"status": "status"}, {"uninstall": True}, {"generate": "stock greedy"}] + [
        {"generate": f"stock {name}", "sampling": each} for name, each in SAMPLINGS.items()
    ]


@pytest.fixture(scope="module", params=["eager", "compiled"])
def wrong(request, drive, captured_llama, workspace):
    """Every solution carries a watermark."""
    dataset = forge(captured_llama.dataset, workspace / f"wrong_{request.param}")
    return drive(
        f"probation_wrong_{request.param}",
        "llama",
        _steps("all"),
        eager=request.param == "eager",
        dataset=dataset,
        FIB_ENABLE_APPLY="1",
        FIB_PROBATION="1",
    )


@pytest.fixture(scope="module")
def right(drive, captured_llama, workspace):
    """Every definition has a right solution: shipped kernels for some, the slow references for the others."""
    packed = workspace / "packed"
    forge(captured_llama.dataset, packed, lambda definition: None)
    pack(packed)
    shipped = TraceSet.from_path(packed)

    def choose(definition):
        kernels = shipped.solutions.get(definition.name, [])
        kernel = next((s for s in kernels if s.name.split("__")[0] in FAST), None)
        if kernel is not None:
            # As a benchmark on this host leaves it; the engine does not wait for a compiler.
            precompile(kernel, workspace / "probation_right.cache")
        return kernel or marked_solution(definition)

    dataset = forge(captured_llama.dataset, workspace / "right", choose)
    return drive("probation_right", "llama", _steps(""), dataset=dataset, FIB_ENABLE_APPLY="1", FIB_PROBATION="1")


def _found(outcome) -> dict[str, list]:
    """Live measurements by family."""
    traces = TraceSet.from_path(outcome.dataset)
    found: dict[str, list] = {}
    for m in load_measurements(outcome.dataset):
        if m.source == "live":
            family = ops.family_of(traces.definitions[m.definition])
            found.setdefault(family.family, []).append(m)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_solution_of_every_op_is_caught_before_it_answers(wrong, family: str) -> None:
    statuses = {m.status for name, group in _found(wrong).items() if name.startswith(family) for m in group}
    assert statuses == {"INCORRECT_NUMERICAL"}


def test_wrong_solutions_change_no_token(wrong) -> None:
    for turn in ("first", "second"):
        for name in ("greedy", *SAMPLINGS):
            assert wrong.results[f"{turn} {name}"] == wrong.results[f"stock {name}"], name


def test_wrong_solutions_are_out_and_never_counted_as_substituted(wrong) -> None:
    status = wrong.results["status"]
    assert {line["reason"] for line in status["quarantined"]} == {"wrong_here"}
    assert sum(op["substituted"] for op in status["ops"].values()) == 0
    assert sum(op["fallbacks"].get("internal_error", 0) for op in status["ops"].values()) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_solution_of_every_op_agrees_with_the_engine_and_is_timed_beside_it(right, family: str) -> None:
    found = [m for name, group in _found(right).items() if name.startswith(family) for m in group]
    assert found
    assert {m.status for m in found} == {"PASSED"}
    assert all(m.solution_ms > 0 and m.baseline_ms > 0 for m in found)


def test_the_fast_ones_answer_and_the_slow_ones_do_not(right) -> None:
    status = right.results["status"]["ops"]
    assert status["vllm.norm"]["substituted"] > 0
    assert status["vllm.sampling"]["substituted"] > 0
    assert status["vllm.rope"]["fallbacks"]["slower_here"] > 0
    assert status["vllm.rope"]["substituted"] == 0
    assert right.results["status"]["quarantined"] == []


def test_right_solutions_leave_tokens_unchanged_during_and_after_probation(right) -> None:
    for turn in ("first", "second"):
        for name in ("greedy", *SAMPLINGS):
            assert right.results[f"{turn} {name}"] == right.results[f"stock {name}"], name
