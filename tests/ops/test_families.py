"""Every op family: a valid definition, named by convention, whose structure knows nothing of names."""

from __future__ import annotations

from typing import Any

import pytest

from fib_plugin import ops
from fib_plugin.schema import AxisVar, Definition
from fib_plugin.schema.record import dump_line, parse

#: family -> (constants of a call site, the name that the convention gives, axes that stay variable)
CASES: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "gemm": ({"n": 6, "k": 8}, "gemm_n6_k8", ["M"]),
    "gemm_fp8_block_scale": ({"n": 200, "k": 300}, "gemm_fp8_block_scale_n200_k300", ["M"]),
    "gemm_fp8_rowwise": ({"n": 6, "k": 8}, "gemm_fp8_rowwise_n6_k8", ["M"]),
    "gemm_fp8_tensorwise": ({"n": 6, "k": 8}, "gemm_fp8_tensorwise_n6_k8", ["M"]),
    "gemm_fp8_static": ({"n": 6, "k": 8}, "gemm_fp8_static_n6_k8", ["M"]),
    "rmsnorm": ({"hidden_size": 64, "eps": 1e-5}, "rmsnorm_h64", ["batch_size"]),
    "fused_add_rmsnorm": ({"hidden_size": 64, "eps": 1e-5}, "fused_add_rmsnorm_h64", ["batch_size"]),
    "silu_and_mul": ({"d": 16}, "silu_and_mul_d16", ["batch_size"]),
    "rope": (
        {"head_dim": 16, "rotary_dim": 8, "is_neox": True},
        "rope_with_cos_sin_cache_neox_style_d16_rd8",
        ["num_tokens", "num_qo_heads", "num_kv_heads", "max_seq_len"],
    ),
    "gqa_paged_decode": (
        {"num_qo_heads": 8, "num_kv_heads": 2, "head_dim": 16},
        "gqa_paged_decode_h8_kv2_d16_ps1",
        ["batch_size", "num_pages", "len_indptr", "num_kv_indices"],
    ),
    "gqa_paged_prefill": (
        {"num_qo_heads": 8, "num_kv_heads": 2, "head_dim": 16, "page_size": 64},
        "gqa_paged_prefill_causal_h8_kv2_d16_ps64",
        ["total_q", "num_pages", "len_indptr", "num_kv_indices"],
    ),
    "gqa_ragged_prefill": (
        {"num_qo_heads": 8, "num_kv_heads": 2, "head_dim": 16},
        "gqa_ragged_prefill_causal_h8_kv2_d16",
        ["total_q", "total_kv", "len_indptr"],
    ),
    "mla_paged_decode": (
        {"num_qo_heads": 16},
        "mla_paged_decode_h16_ckv512_kpe64_ps1",
        ["batch_size", "num_pages", "len_indptr", "num_kv_indices"],
    ),
    "moe": (
        {"topk": 2, "num_experts": 4, "hidden_size": 8, "intermediate_size": 6},
        "moe_topk2_e4_h8_i6",
        ["num_tokens"],
    ),
    "moe_fp8_block_scale": (
        {"topk": 2, "num_experts": 4, "hidden_size": 200, "intermediate_size": 130},
        "moe_fp8_block_scale_topk2_e4_h200_i130",
        ["num_tokens"],
    ),
    "top_k_sampling": ({"vocab_size": 32}, "top_k_sampling_from_probs_v32", ["batch_size"]),
    "top_p_sampling": ({"vocab_size": 32}, "top_p_sampling_from_probs_v32", ["batch_size"]),
    "top_k_top_p_sampling": ({"vocab_size": 32}, "top_k_top_p_sampling_from_probs_v32", ["batch_size"]),
}

WITH_DTYPE = [family for family in CASES if "sampling" not in family]


def make(family: str, **changed: Any) -> Definition:
    return ops.ALL[family].definition(**{**CASES[family][0], **changed})


def test_every_family_has_its_case_here() -> None:
    assert set(CASES) == set(ops.ALL)


@pytest.mark.parametrize("family", CASES)
def test_the_name_follows_the_convention(family: str) -> None:
    assert make(family).name == CASES[family][1]


@pytest.mark.parametrize("family", CASES)
def test_what_comes_with_a_call_is_variable_and_the_rest_constant(family: str) -> None:
    assert make(family).var_axes == CASES[family][2]


@pytest.mark.parametrize("family", CASES)
def test_the_definition_is_read_back_as_it_was_written(family: str) -> None:
    definition = make(family)
    assert parse(Definition, dump_line(definition)) == definition


@pytest.mark.parametrize("family", CASES)
def test_the_family_is_found_by_interface(family: str) -> None:
    assert ops.family_of(make(family)) is ops.ALL[family]


@pytest.mark.parametrize("family", CASES)
def test_key_axes_structural_and_mutated_inputs_exist(family: str) -> None:
    spec, definition = ops.ALL[family], make(family)
    assert set(spec.key_axes) <= set(definition.var_axes)
    assert spec.inputs == tuple(definition.inputs)
    assert set(spec.structural) | set(spec.mutates) <= set(definition.inputs)
    assert spec.op_type == definition.op_type


@pytest.mark.parametrize("family", CASES)
def test_pool_sizes_are_no_key(family: str) -> None:
    assert {"num_pages", "max_seq_len", "num_qo_heads"}.isdisjoint(ops.ALL[family].key_axes)


@pytest.mark.parametrize("family", CASES)
def test_integer_inputs_are_saved_by_value(family: str) -> None:
    """Random indices read out of bounds."""
    integers = {name for name, spec in make(family).inputs.items() if str(spec.dtype).startswith("int")}
    assert integers <= set(ops.ALL[family].structural)


@pytest.mark.parametrize("family", CASES)
def test_the_reference_takes_the_inputs_in_order(family: str) -> None:
    definition = make(family)
    scope: dict[str, Any] = {}
    exec(definition.reference, scope)
    run = scope["run"]
    code = getattr(run, "__wrapped__", run).__code__
    assert code.co_varnames[: code.co_argcount] == tuple(definition.inputs)


@pytest.mark.parametrize("family", WITH_DTYPE)
def test_another_dtype_is_part_of_the_name_and_of_the_tensors(family: str) -> None:
    names = {dtype: make(family, dtype=dtype).name for dtype in ("bfloat16", "float16", "float32")}
    assert len(set(names.values())) == 3
    assert "fp16" in names["float16"]
    assert "fp32" in names["float32"]
    first = next(iter(make(family, dtype="float16").inputs.values()))
    assert str(first.dtype) == "float16"


@pytest.mark.parametrize("eps", [1e-5, 1e-6, 0.125, 3.0517578125e-05])
@pytest.mark.parametrize("family", ["rmsnorm", "fused_add_rmsnorm"])
def test_eps_is_read_back_exactly_and_tells_names_apart(family: str, eps: float) -> None:
    definition = make(family, eps=eps)
    assert ops.reference_eps(definition.reference) == eps
    assert ops.constants(definition)["eps"] == eps
    assert (definition.name == CASES[family][1]) == (eps == 1e-5)


def test_constants_hold_what_no_input_carries() -> None:
    assert ops.constants(make("gemm")) == {"N": 6, "K": 8}
    assert ops.constants(make("rmsnorm")) == {"hidden_size": 64, "eps": 1e-5}
    assert ops.constants(make("rope"))["is_neox"] == 1
    assert ops.constants(make("rope", is_neox=False))["is_neox"] == 0
    assert ops.constants(make("gemm_fp8_block_scale")) == {"N": 200, "K": 300, "n_blocks": 2, "k_blocks": 3, "ue8m0": 0}
    assert ops.constants(make("gemm_fp8_block_scale", ue8m0=True))["ue8m0"] == 1


def test_a_reference_without_eps_has_none() -> None:
    assert ops.reference_eps("def run(x):\n    return x\n") is None
    assert ops.reference_eps("def run(x, eps=1e-5):\n    steps = 3\n    return x\n") is None


# ---- structure ------------------------------------------------------------------------------------------------------


def respelt(definition: Definition) -> Definition:
    """Another name, description and tags; every axis renamed and declared in another order."""
    axes = {f"their_{name}": axis for name, axis in reversed(definition.axes.items())}
    tensors = {
        part: {
            name: spec.model_copy(update={"shape": spec.shape and [f"their_{axis}" for axis in spec.shape]})
            for name, spec in getattr(definition, part).items()
        }
        for part in ("inputs", "outputs")
    }
    style = "_gptj" if "gptj" in definition.name else ""
    words = {"name": f"other{style}", "description": None, "tags": []}
    return definition.model_copy(update={"axes": axes, **tensors, **words})


@pytest.mark.parametrize("family", CASES)
def test_structure_knows_no_names(family: str) -> None:
    definition = make(family)
    assert ops.structure(respelt(definition)) == ops.structure(definition)
    assert hash(ops.structure(respelt(definition))) == hash(ops.structure(definition))


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        *[(family, {"dtype": "float16"}) for family in WITH_DTYPE],
        ("gemm", {"n": 7}),
        ("gemm", {"n": 8, "k": 6}),
        ("gemm_fp8_block_scale", {"ue8m0": True}),
        ("rmsnorm", {"eps": 1e-6}),
        ("fused_add_rmsnorm", {"eps": 1e-6}),
        ("rope", {"is_neox": False}),
        ("rope", {"rotary_dim": 16}),
        ("rope", {"cache_dtype": "bfloat16"}),
        ("gqa_paged_decode", {"num_kv_heads": 4}),
        ("gqa_paged_decode", {"page_size": 16}),
        ("moe", {"topk": 1}),
        ("moe_fp8_block_scale", {"topk": 1}),
        ("moe_fp8_block_scale", {"ue8m0": True}),
        ("top_k_sampling", {"vocab_size": 33}),
    ],
)
def test_structure_and_name_differ_where_the_contract_does(family: str, changed: dict[str, Any]) -> None:
    assert ops.structure(make(family, **changed)) != ops.structure(make(family))
    assert make(family, **changed).name != make(family).name


def test_families_never_share_a_structure() -> None:
    assert len({ops.structure(make(family)) for family in CASES}) == len(CASES)


def test_a_constant_axis_differs_from_a_variable_one() -> None:
    gemm = make("gemm")
    free = gemm.model_copy(update={"axes": {**gemm.axes, "N": AxisVar()}})
    assert ops.structure(free) != ops.structure(gemm)


def test_a_fused_norm_that_leaves_the_sum_out_is_the_same_at_a_call_site() -> None:
    fused = make("fused_add_rmsnorm")
    single = fused.model_copy(update={"outputs": {"output": fused.outputs["output"]}})
    assert ops.structure(single) == ops.structure(fused)


def test_a_definition_of_no_family_has_none() -> None:
    gemm = make("gemm")
    assert ops.family_of(gemm.model_copy(update={"op_type": "conv"})) is None
    assert ops.family_of(gemm.model_copy(update={"inputs": {"A": gemm.inputs["A"]}})) is None


# ---- point and tolerance --------------------------------------------------------------------------------------------


def test_a_point_of_one_key_axis_is_its_size() -> None:
    assert ops.ALL["gemm"].point({"M": 17}) == (17, 0)


@pytest.mark.parametrize(
    ("requests", "kv", "point"),
    [(1, 0, (4, 0)), (1, 1, (4, 1)), (1, 3, (4, 2)), (1, 4, (4, 3)), (4, 4000, (4, 10)), (4, 4096, (4, 11))],
)
def test_a_point_of_attention_counts_keys_per_request_by_powers_of_two(
    requests: int, kv: int, point: tuple[int, int]
) -> None:
    axes = {"batch_size": 4, "num_pages": 10**6, "len_indptr": requests + 1, "num_kv_indices": kv}
    assert ops.ALL["gqa_paged_decode"].point(axes) == point


def test_a_point_of_a_batch_without_requests_is_no_error() -> None:
    axes = {"total_q": 0, "num_pages": 1, "len_indptr": 1, "num_kv_indices": 0}
    assert ops.ALL["gqa_paged_prefill"].point(axes) == (0, 0)


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4)])
def test_length_classes_are_powers_of_two(tokens: int, expected: int) -> None:
    assert ops.length_class(tokens) == expected


def test_tolerances_tighten_with_the_dtype_and_are_zero_for_integers() -> None:
    by_dtype = [ops.tolerance(make("gemm", dtype=dtype)).atol for dtype in ("float32", "float16", "bfloat16")]
    assert by_dtype == sorted(by_dtype)
    assert by_dtype[0] < by_dtype[1] < by_dtype[2]
    assert ops.tolerance(make("top_k_sampling")) == ops.Tolerance(0.0, 0.0)


def test_fp8_inputs_have_a_tolerance_of_their_own() -> None:
    assert ops.tolerance(make("gemm_fp8_rowwise")) == ops.Tolerance(5e-2, 5e-2, 0.9)
    assert ops.tolerance(make("gemm")).matched_ratio > 0.99
