"""What real engines write down with tracing on, from an empty dataset: the same definitions, whichever serves."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from engines.conftest import sampling_steps
from fib_plugin import ops
from fib_plugin.dataset import TraceSet, load_counts, validate

pytestmark = pytest.mark.engine

LLAMA_DEFINITIONS = {
    "gemm_fp32_n256_k128",
    "gemm_fp32_n128_k128",
    "gemm_fp32_n512_k128",
    "gemm_fp32_n640_k128",
    "gemm_fp32_n128_k256",
    "rmsnorm_fp32_eps1e-06_h128",
    "fused_add_rmsnorm_fp32_eps1e-06_h128",
    "silu_and_mul_fp32_d256",
    "rope_with_cos_sin_cache_neox_style_fp32_d32_rd32",
    "gqa_paged_decode_fp32_h4_kv2_d32_ps1",
    "gqa_paged_prefill_causal_fp32_h4_kv2_d32_ps1",
    "top_k_sampling_from_probs_v640",
    "top_p_sampling_from_probs_v640",
    "top_k_top_p_sampling_from_probs_v640",
}


@pytest.fixture(scope="module")
def stock(drive):
    return drive("stock_llama", "llama", sampling_steps())


@pytest.fixture(scope="module", params=["vllm", "sglang"])
def captured(request):
    return request.getfixturevalue("captured_sglang" if request.param == "sglang" else "captured_llama")


def test_tracing_leaves_greedy_tokens_unchanged(stock, captured) -> None:
    assert stock.results["greedy"] == captured.results["greedy"]
    assert len(stock.results["greedy"]) == 3


def test_without_switches_nothing_is_written(stock) -> None:
    assert not stock.dataset.exists()
    assert not stock.cache.exists()


def test_every_op_of_the_model_is_harvested(captured) -> None:
    traces = TraceSet.from_path(captured.dataset)
    assert set(traces.definitions) == LLAMA_DEFINITIONS
    for name in LLAMA_DEFINITIONS:
        assert traces.workloads[name], name
        assert any(s.author == "engine" for s in traces.solutions[name]), name


def test_the_captured_dataset_is_valid(captured) -> None:
    assert validate(captured.dataset).problems == []


def test_structural_inputs_hold_what_the_engine_passed(captured) -> None:
    traces = TraceSet.from_path(captured.dataset)
    decode = traces.workloads["gqa_paged_decode_fp32_h4_kv2_d32_ps1"]
    for trace in decode:
        assert trace.workload.inputs["sm_scale"].value == pytest.approx(32**-0.5)
        blob = load_file(captured.dataset / trace.workload.inputs["kv_indices"].path)
        indptr, indices = blob["kv_indptr"], blob["kv_indices"]
        assert indptr[0] == 0
        assert indptr[-1] == len(indices) == trace.workload.axes["num_kv_indices"]
        assert indices.max() < trace.workload.axes["num_pages"]
        assert len(indices.unique()) == len(indices)
        if captured.engine == "vllm":
            # Slots of one request follow each other within a block.
            assert (indices[1 : indptr[1]] - indices[: indptr[1] - 1] == 1).all()


def test_sampling_parameters_are_real_values(captured) -> None:
    trace = TraceSet.from_path(captured.dataset).workloads["top_k_top_p_sampling_from_probs_v640"][0]
    blob = load_file(captured.dataset / trace.workload.inputs["top_k"].path)
    if captured.engine == "vllm":
        assert blob["top_k"].tolist() == [1, 1, 1]
        assert blob["top_p"].tolist() == [0.5, 0.5, 0.5]
    else:
        # SGLang's p is a share of all, the definition's of what k leaves.
        assert set(blob["top_k"].tolist()) <= {1, 2}
        assert (blob["top_p"] >= 0.5).all()
        assert len(blob["top_p"].unique()) > 1


def test_each_shape_is_kept_once_and_counted(captured) -> None:
    traces = TraceSet.from_path(captured.dataset)
    counts = load_counts(captured.dataset)
    for name, kept in traces.workloads.items():
        definition = traces.definitions[name]
        family = ops.family_of(definition)
        points = [family.point(t.workload.axes) for t in kept]
        assert len(points) == len(set(points)), name
        assert sum(counts[name].values()) > 0, name
    per_step = sum(counts["silu_and_mul_fp32_d256"].values())
    assert sum(counts["rope_with_cos_sin_cache_neox_style_fp32_d32_rd32"].values()) == per_step


def test_counts_tell_how_often_each_size_ran(captured) -> None:
    counts = load_counts(captured.dataset)["silu_and_mul_fp32_d256"]
    by_rows = {json.loads(axes)["batch_size"]: calls for axes, calls in counts.items()}
    # 4 generations of 3 prompts (14 prompt tokens, 8 new tokens), two layers: 7 decode steps of 3 rows each.
    if captured.engine == "vllm":
        assert by_rows[3] == 4 * 7 * 2
    else:
        # Requests are put together as they come, and there is no warm-up.
        assert sum(rows * calls for rows, calls in by_rows.items()) == 4 * (14 + 7 * 3) * 2


def test_a_mixture_of_experts_is_harvested_with_its_routing(captured_moe) -> None:
    traces = TraceSet.from_path(captured_moe.dataset)
    trace = traces.workloads["moe_fp32_topk2_e4_h128_i64"][0]
    blob = load_file(captured_moe.dataset / trace.workload.inputs["topk_ids"].path)
    assert blob["topk_ids"].shape == (trace.workload.axes["num_tokens"], 2)
    assert blob["topk_ids"].min() >= 0
    assert blob["topk_ids"].max() < 4
    assert (
        blob["topk_weights"].sum(dim=-1).allclose(blob["topk_weights"].new_ones(len(blob["topk_weights"])), atol=1e-3)
    )


def test_status_counts_calls_and_says_why_nothing_was_substituted(captured) -> None:
    ops_seen = captured.results["status"]["ops"]
    hooked = ("gemm", "norm", "activation", "rope", "attention", "sampling")
    assert set(ops_seen) == {f"{captured.engine}.{op}" for op in hooked}
    for line in ops_seen.values():
        assert line["substituted"] == 0
        assert line["fallbacks"] == {"apply_off": line["calls"]}


def test_targets_of_the_installed_engine_are_all_patched(captured) -> None:
    """Those of ops that ran; what is for another device or kind of model waits for a module that is not imported."""
    ran = {*captured.results["status"]["ops"], "vllm.compile_cache"}
    for target in captured.results["status"]["targets"]:
        fits = {"patched"} if target["adapter"] in ran else {"patched", "waiting", "for other versions"}
        if captured.engine == "sglang":  # one adapter for all backends and all versions
            fits |= {"for other versions"} | ({"waiting"} if "_backend:" in target["target"] else set())
        assert target["state"] in fits, target


@pytest.fixture(scope="module")
def compiled(drive):
    """The same with torch.compile: norms, activations and rotary embeddings stay in the graph and are only seen."""
    return drive(
        "captured_compiled", "llama", [*sampling_steps(), {"status": "status"}], eager=False, FIB_ENABLE_TRACING="1"
    )


@pytest.fixture(scope="module")
def stock_compiled(drive):
    return drive("stock_captured_compiled", "llama", sampling_steps(), eager=False)


def test_a_compiled_model_is_harvested_as_completely_as_an_eager_one(compiled) -> None:
    assert set(TraceSet.from_path(compiled.dataset).definitions) == LLAMA_DEFINITIONS


def test_a_compiled_model_counts_the_calls_of_an_eager_one(compiled, captured_llama) -> None:
    """But for the warm-up, whose sizes are the engine's own choice."""

    def decode(outcome) -> dict[str, int]:
        counts = load_counts(outcome.dataset)
        return {
            name: sum(n for axes, n in by_axes.items() if json.loads(axes).get(axis) == 3)
            for name, by_axes in counts.items()
            for axis in ("M", "batch_size", "num_tokens")
            if any(axis in json.loads(axes) for axes in by_axes)
        }

    assert decode(compiled) == decode(captured_llama)


def test_tracing_leaves_the_tokens_of_a_compiled_model_unchanged(compiled, stock_compiled) -> None:
    assert compiled.results["greedy"] == stock_compiled.results["greedy"]
