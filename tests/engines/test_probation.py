"""Probation in real engines: wrong solutions never answer, right and slow ones neither, right and fast ones do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from engines.conftest import CERTAIN, SAMPLINGS, engine_process, samplings
from engines.forge import forge, marked_solution
from fib_plugin import ops
from fib_plugin.dataset import TraceSet, load_measurements
from fib_plugin.pack import pack
from fib_plugin.schema import Solution

pytestmark = pytest.mark.engine

FAMILIES = ("rmsnorm", "fused_add_rmsnorm", "silu_and_mul", "rope", "gemm", "gqa_paged", *SAMPLINGS)
#: Shipped kernels that win by far on a CPU, so that a noisy machine does not change the verdict.
FAST = ("rmsnorm_cpp", "sampling_cpp")


#: SGLang puts requests together as they come.
SIZES = {"vllm": (), "sglang": range(1, 18)}


def _steps(mark: str, engine: str) -> list[dict]:
    steps: list[dict] = []
    own = samplings(engine)
    for turn in ("first", "second"):
        steps.append({"generate": f"{turn} greedy", "mark": mark})
        steps += [{"generate": f"{turn} {name}", "sampling": each, "mark": mark} for name, each in own.items()]
    return [*steps, {"status": "status"}, {"uninstall": True}, {"generate": "stock greedy"}] + [
        {"generate": f"stock {name}", "sampling": each} for name, each in own.items()
    ]


def _captured(request, engine: str):
    return request.getfixturevalue("captured_sglang" if engine == "sglang" else "captured_llama").dataset


@pytest.fixture(scope="module", params=["vllm", "vllm compiled", "sglang"])
def wrong(request, drive, workspace):
    """Every solution carries a watermark."""
    engine, _, compiled = request.param.partition(" ")
    name = f"wrong_{request.param.replace(' ', '_')}"
    return drive(
        f"probation_{name}",
        "llama",
        _steps("all", engine),
        eager=not compiled,
        dataset=forge(_captured(request, engine), workspace / name, sizes=SIZES[engine]),
        engine=engine,
        FIB_ENABLE_APPLY="1",
        FIB_PROBATION="1",
    )


@pytest.fixture(scope="module", params=["vllm", "sglang"])
def right(request, drive, workspace):
    """Every definition has a right solution: shipped kernels for some, the slow references for the others."""
    engine = request.param
    packed, name = workspace / f"packed_{engine}", f"probation_right_{engine}"
    forge(_captured(request, engine), packed, lambda definition: None)
    pack(packed)
    shipped = TraceSet.from_path(packed)

    def choose(definition):
        kernels = shipped.solutions.get(definition.name, [])
        kernel = next((s for s in kernels if s.name.split("__")[0] in FAST), None)
        if kernel is not None:
            # As a benchmark on this host leaves it; the engine does not wait for a compiler.
            _build(engine, kernel, workspace, workspace / f"{name}.cache")
        return kernel or marked_solution(definition)

    dataset = forge(_captured(request, engine), workspace / f"right_{engine}", choose, sizes=SIZES[engine])
    switches = {"FIB_ENABLE_APPLY": "1", "FIB_PROBATION": "1"}
    return drive(name, "llama", _steps("", engine), dataset=dataset, engine=engine, **switches)


def _build(engine: str, kernel: Solution, workspace: Path, cache: Path) -> None:
    """In the environment of the engine that is going to load it."""
    python, variables = engine_process(engine, workspace)
    build = (
        "import sys; from pathlib import Path; from fib_plugin.build import precompile; "
        "from fib_plugin.schema import Solution; "
        "precompile(Solution.model_validate_json(sys.stdin.read()), Path(sys.argv[1]))"
    )
    environment = {**os.environ, **variables, "FIB_DISABLE": "1"}
    subprocess.run([python, "-c", build, cache], input=kernel.model_dump_json(), env=environment, text=True, check=True)


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


def _assert_tokens_stay(outcome) -> None:
    for turn in ("first", "second"):
        for name in ("greedy", *SAMPLINGS):
            got, stock = (outcome.results[f"{which} {name}"][:CERTAIN] for which in (turn, "stock"))
            assert got == stock, name


def test_wrong_solutions_change_no_token(wrong) -> None:
    _assert_tokens_stay(wrong)


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
    assert status[f"{right.engine}.norm"]["substituted"] > 0
    assert status[f"{right.engine}.sampling"]["substituted"] > 0
    if right.engine == "vllm":  # SGLang's CPU engine runs torch ops, as references do
        assert status["vllm.rope"]["fallbacks"]["slower_here"] > 0
        assert status["vllm.rope"]["substituted"] == 0
    assert right.results["status"]["quarantined"] == []


def test_right_solutions_leave_tokens_unchanged_during_and_after_probation(right) -> None:
    _assert_tokens_stay(right)
