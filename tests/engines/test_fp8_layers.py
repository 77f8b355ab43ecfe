"""The engines' own fp8 layers with solutions in their place: fp8_layers.py says what of them is a stand-in."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import proven
import pytest

from engines.conftest import engine_process
from fib_plugin import ops

HERE = Path(__file__).parent
N, K, ROWS = 256, 384, 4
#: What is called, and the definition it is.
KINDS = {
    "rowwise": ops.ALL["gemm_fp8_rowwise"].definition(n=N, k=K),
    "block_scale": ops.ALL["gemm_fp8_block_scale"].definition(n=N, k=K),
    "experts": ops.ALL["moe_fp8_block_scale"].definition(topk=2, num_experts=4, hidden_size=K, intermediate_size=128),
}
MARK = 3.0
#: As proven.MARKED, small enough to leave the rest of a bfloat16 number to be seen.
MARKED = proven.MARKED.replace(str(proven.MARK), str(MARK))

pytestmark = pytest.mark.engine


@pytest.fixture(params=["vllm", "sglang"])
def run(request: pytest.FixtureRequest, tmp_path: Path, environment: Any) -> Callable[..., dict[str, Any]]:
    """Runs the layers of an engine in a fresh process, with a solution of each kind proven; what came out."""
    dataset, out = tmp_path / "dataset", tmp_path / "out.json"

    def run(after: str, **env: str) -> dict[str, Any]:
        for kind, definition in KINDS.items():
            proven.prove(dataset, definition, proven.solution(definition, f"fast__{kind}", after), sizes=(ROWS,))
        python, own = engine_process(request.param, tmp_path)
        # Measurements count on the host and with the libraries they were made with: the two engines' differ.
        fib = {name: value for name, value in os.environ.items() if name.startswith("FIB_")}
        fib |= {"FIB_ENABLE_APPLY": "1", "FIB_APPLY_ANY_HARDWARE": "1"}
        done = subprocess.run(
            [python, HERE / "fp8_layers.py", request.param, out],
            env={**os.environ, **own, **fib, **env},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(out.read_text())
        of = found["status"]["ops"]
        return {**found, "ops": [of[f"{request.param}.{name}"] for name in ("gemm_fp8", "moe_fp8")]}

    return run


def test_a_marked_solution_answers_in_the_place_of_the_engines_own_method(run: Callable[..., dict[str, Any]]) -> None:
    found = run(MARKED)
    for kind in KINDS:
        assert abs(found[kind]["differs_by"] - MARK) < 0.02 * MARK, kind
        # But for the mark it is what the engine answers itself.
        assert found[kind]["spread"] < 0.02 * found[kind]["usual"], kind
    assert [counts["substituted"] for counts in found["ops"]] == [2, 1]
    assert found["restored"]


def test_probation_holds_a_solution_against_the_engines_own_method(run: Callable[..., dict[str, Any]]) -> None:
    found = run(MARKED, FIB_PROBATION="1", FP8_LAYERS_CALLS="12")
    for counts in found["ops"]:
        assert counts["substituted"] == 0
        assert counts["fallbacks"]["wrong_here"] > 0
    for kind in KINDS:
        assert found[kind]["differs_by"] == found[kind]["spread"] == 0.0, kind


def test_a_right_solution_is_not_called_wrong(run: Callable[..., dict[str, Any]]) -> None:
    found = run("\n", FIB_PROBATION="1", FP8_LAYERS_CALLS="12")
    for counts in found["ops"]:
        assert "wrong_here" not in counts["fallbacks"]


def test_calls_are_seen_as_both_engines_see_them(run: Callable[..., dict[str, Any]]) -> None:
    found = run(MARKED, FIB_ENABLE_APPLY="0", FIB_ENABLE_TRACING="1")
    axes = {definition.name: definition.var_axes[0] for definition in KINDS.values()}
    assert found["calls"] == {name: {f'{{"{axis}":{ROWS}}}': 1} for name, axis in axes.items()}
