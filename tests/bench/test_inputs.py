"""Made inputs: of the right form, sensible for the op, fresh per seed and reproducible."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fib_plugin import ops
from fib_plugin.bench.inputs import InputError, InputMaker, same_rows
from fib_plugin.bench.reference import Reference
from fib_plugin.schema import Definition, RandomInput, SafetensorsInput, ScalarInput, Workload

DECODE = ops.ALL["gqa_paged_decode"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=16)
CASES: list[tuple[Definition, dict[str, int]]] = [
    (ops.ALL["gemm"].definition(n=48, k=64), {"M": 3}),
    (ops.ALL["gemm"].definition(n=48, k=64, dtype="float16"), {"M": 0}),
    (ops.ALL["gemm_fp8_block_scale"].definition(n=200, k=300), {"M": 3}),
    (ops.ALL["gemm_fp8_static"].definition(n=48, k=64), {"M": 3}),
    (
        ops.ALL["moe_fp8_block_scale"].definition(topk=2, num_experts=4, hidden_size=200, intermediate_size=128),
        {"num_tokens": 3},
    ),
    (ops.ALL["rmsnorm"].definition(hidden_size=64, eps=1e-6), {"batch_size": 3}),
    (ops.ALL["fused_add_rmsnorm"].definition(hidden_size=64, eps=1e-6), {"batch_size": 3}),
    (ops.ALL["silu_and_mul"].definition(d=32), {"batch_size": 3}),
    (
        ops.ALL["rope"].definition(head_dim=32, rotary_dim=16, is_neox=True),
        {"num_tokens": 5, "num_qo_heads": 4, "num_kv_heads": 2, "max_seq_len": 64},
    ),
    (DECODE, {"batch_size": 2, "num_pages": 32, "len_indptr": 3, "num_kv_indices": 11}),
    (
        ops.ALL["gqa_paged_prefill"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=16),
        {"total_q": 6, "num_pages": 32, "len_indptr": 3, "num_kv_indices": 11},
    ),
    (ops.ALL["moe"].definition(topk=2, num_experts=4, hidden_size=32, intermediate_size=16), {"num_tokens": 5}),
    (ops.ALL["top_k_sampling"].definition(vocab_size=64), {"batch_size": 3}),
    (ops.ALL["top_p_sampling"].definition(vocab_size=64), {"batch_size": 3}),
    (ops.ALL["top_k_top_p_sampling"].definition(vocab_size=64), {"batch_size": 3}),
]


def random_workload(definition: Definition, axes: dict[str, int]) -> Workload:
    return Workload(axes=axes, inputs={name: RandomInput() for name in definition.inputs}, uuid="w")


@pytest.mark.parametrize(("definition", "axes"), CASES, ids=lambda value: getattr(value, "name", ""))
def test_random_inputs_have_the_form_and_let_the_reference_run(definition: Definition, axes: dict[str, int]) -> None:
    inputs = InputMaker(None, 1).make(definition, random_workload(definition, axes), 2)
    for value, shape, spec in zip(inputs, definition.input_shapes(axes), definition.inputs.values(), strict=True):
        if shape is not None:
            assert (tuple(value.shape), str(value.dtype)) == (shape, f"torch.{spec.dtype}")
    outputs = Reference(definition)(inputs)
    for output in outputs:
        assert not output.isnan().any()


def test_seeds_decide_the_values() -> None:
    definition, axes = CASES[0]
    workload = random_workload(definition, axes)
    first, again, other = (InputMaker(None, 1).make(definition, workload, seed)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_probabilities_are_probabilities() -> None:
    definition, axes = CASES[-1]
    probs = InputMaker(None, 1).make(definition, random_workload(definition, axes), 2)[0]
    assert torch.allclose(probs.sum(-1), torch.ones(3))
    assert bool((probs > 0).all())


def test_outputs_of_a_product_stay_near_one() -> None:
    definition = ops.ALL["gemm"].definition(n=64, k=1024, dtype="float32")
    a, b = InputMaker(None, 1).make(definition, random_workload(definition, {"M": 64}), 2)
    assert 0.8 < float((a @ b.T).std()) < 1.25


@pytest.mark.parametrize("kind", ["block_scale", "rowwise", "tensorwise", "static"])
def test_fp8_weights_fill_their_format_and_their_product_stays_near_one(kind: str) -> None:
    definition = ops.ALL[f"gemm_fp8_{kind}"].definition(n=256, k=1024, dtype="float32")
    inputs = InputMaker(None, 1).make(definition, random_workload(definition, {"M": 64}), 2)
    weight = inputs[list(definition.inputs).index("B")]
    assert 300 < float(weight.float().abs().max()) <= 448
    assert 80 < float(weight.float().std()) < 120
    (out,) = Reference(definition)(inputs)
    assert 0.4 < float(out.std()) < 1.6


def test_fp8_experts_are_made_as_plain_ones_are() -> None:
    sizes = {"topk": 2, "num_experts": 4, "hidden_size": 256, "intermediate_size": 256, "dtype": "float32"}
    spread = []
    for family in ("moe", "moe_fp8_block_scale"):
        definition = ops.ALL[family].definition(**sizes)
        inputs = InputMaker(None, 1).make(definition, random_workload(definition, {"num_tokens": 64}), 2)
        spread.append(float(Reference(definition)(inputs)[0][0].std()))
    assert 0.5 * spread[0] < spread[1] < 2 * spread[0]


def test_no_two_blocks_have_the_same_scale() -> None:
    definition = ops.ALL["gemm_fp8_block_scale"].definition(n=256, k=1024)
    scales = InputMaker(None, 1).make(definition, random_workload(definition, {"M": 1}), 2)[2]
    assert scales.unique().numel() == scales.numel() == 16


def saved_decode(root: Path, indices: list[int], **axes: int) -> Workload:
    save_file({"kv_indices": torch.tensor(indices, dtype=torch.int32)}, root / "blob.safetensors")
    inputs = {name: RandomInput() for name in DECODE.inputs}
    saved = {"kv_indices": SafetensorsInput(path="blob.safetensors", tensor_key="kv_indices")}
    sizes = {"batch_size": 1, "num_pages": 10**9, "len_indptr": 2, "num_kv_indices": len(indices)} | axes
    return Workload(axes=sizes, inputs={**inputs, **saved, "sm_scale": ScalarInput(value=0.25)}, uuid="w")


def test_saved_tensors_and_scalars_come_as_they_were(tmp_path: Path) -> None:
    values = dict(
        zip(DECODE.inputs, InputMaker(tmp_path, 1).make(DECODE, saved_decode(tmp_path, [7, 2]), 2), strict=True)
    )
    assert values["kv_indices"].tolist() == [7, 2]
    assert values["sm_scale"] == 0.25


def test_pages_that_nothing_reads_are_not_allocated(tmp_path: Path) -> None:
    values = InputMaker(tmp_path, 1).make(DECODE, saved_decode(tmp_path, [7, 2]), 2)
    assert values[1].shape[0] == 8


def test_indices_past_the_pool_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reads page 7, but num_pages is 4"):
        InputMaker(tmp_path, 1).make(DECODE, saved_decode(tmp_path, [7, 2], num_pages=4), 2)


def test_saved_data_of_another_shape_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shape"):
        InputMaker(tmp_path, 1).make(DECODE, saved_decode(tmp_path, [7, 2], num_kv_indices=3), 2)


def test_a_missing_axis_is_an_error() -> None:
    definition, _ = CASES[0]
    with pytest.raises(InputError, match="axis 'M'"):
        InputMaker(None, 1).make(definition, random_workload(definition, {}), 2)


def test_same_rows_repeats_a_few_rows_along_the_batch() -> None:
    definition, axes = CASES[-1]
    inputs = InputMaker(None, 1).make(definition, random_workload(definition, {**axes, "batch_size": 5}), 2)
    probs, top_k, _ = same_rows(definition, inputs, 2)
    assert torch.equal(probs[4], inputs[0][0])
    assert top_k.tolist() == inputs[1][torch.tensor([0, 1, 0, 1, 0])].tolist()
