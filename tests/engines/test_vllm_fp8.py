"""A real vLLM that serves a checkpoint in fp8 on a CPU: its linear layers are captured, marked and answered for.

On a CPU the engine rounds activations by one scale for all of them, and torch multiplies; stand_ins/vllm_fp8.py has
what its CPU build lacks to load such a checkpoint.
"""

from __future__ import annotations

import pytest

from engines.forge import forge

pytestmark = pytest.mark.engine
FAMILY = "gemm_fp8_tensorwise"
#: N, K of the tiny llama's layers: queries, keys and values, the way out of attention, gate and up, down.
SHAPES = ((256, 128), (128, 128), (512, 128), (128, 256))
OWN = {"FIB_ENABLE_APPLY": "1", "FIB_ADAPTERS": "vllm.gemm_fp8"}


@pytest.fixture(scope="module")
def captured(drive):
    return drive("captured_fp8", "llama_fp8", [{"generate": "stock"}, {"status": "status"}], FIB_ENABLE_TRACING="1")


@pytest.fixture(scope="module")
def forged(captured, workspace):
    return forge(captured.dataset, workspace / "forged_fp8", sizes=range(1, 12))


@pytest.fixture(scope="module", params=["eager", "compiled"])
def served(request, forged, drive):
    steps = [
        {"generate": "right"},
        {"generate": "marked", "mark": FAMILY},
        {"generate": "right again"},
        {"status": "status"},
        {"generate": "raising", "mark": f"raise:{FAMILY}"},
    ]
    eager = request.param == "eager"
    return drive(f"served_fp8_{request.param}", "llama_fp8", steps, eager=eager, dataset=forged, **OWN)


def test_every_linear_layer_is_captured_and_lm_head_is_none_of_them(captured) -> None:
    assert captured.returncode == 0, captured.log[-3000:]
    found = captured.results["status"]["ops"]["vllm.gemm_fp8"]
    assert set(found["definitions"]) == {f"{FAMILY}_n{n}_k{k}" for n, k in SHAPES}
    assert found["fallbacks"] == {"apply_off": found["calls"]}


def test_a_marked_solution_changes_the_answer_and_only_while_it_is_marked(served) -> None:
    assert served.returncode == 0, served.log[-3000:]
    results = served.results
    assert results["marked"] != results["right"]
    assert results["right again"] == results["right"]
    counts = results["status"]["ops"]["vllm.gemm_fp8"]
    assert counts["substituted"] > 0.9 * counts["calls"]


def test_a_raising_solution_is_answered_by_the_engines_own_layer(served, captured) -> None:
    assert "raised on purpose" in served.log
    assert [len(tokens) for tokens in served.results["raising"]] == [8, 8, 8]
    # What a compiler makes of the ops around a layer may round otherwise, in bfloat16.
    if "eager" in served.cache.name:
        assert served.results["raising"] == captured.results["stock"]
