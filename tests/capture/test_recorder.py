"""Recorder: structural inputs by value and private, scalars by value, the rest by shape; nothing waits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fib_plugin import ops
from fib_plugin.capture.recorder import Recorder
from fib_plugin.capture.writer import RANDOM, Record
from fib_plugin.schema import Definition

DECODE = ops.ALL["gqa_paged_decode"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=8)
AXES = {"batch_size": 2, "num_pages": 16, "len_indptr": 3, "num_kv_indices": 5}


class Kept:
    """Stands where the writer is."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def submit(self, record: Record) -> bool:
        self.records.append(record)
        return True


def recorded(definition: Definition, axes: dict[str, int], inputs: tuple[Any, ...], **options: Any) -> Record:
    writer: Any = Kept()
    Recorder(writer, options.get("displaced", lambda adapter, definition: None)).record("toy", definition, axes, inputs)
    (record,) = writer.records
    return record


def decode_inputs(scale: Any = 0.25) -> tuple[Any, ...]:
    pool = torch.zeros(16, 1, 2, 8, dtype=torch.bfloat16)
    indptr, indices = torch.tensor([0, 2, 5], dtype=torch.int32), torch.tensor([7, 3, 1, 0, 9], dtype=torch.int32)
    return torch.zeros(2, 4, 8, dtype=torch.bfloat16), pool, pool, indptr, indices, scale


def test_structural_inputs_are_kept_by_value_and_activations_by_shape() -> None:
    inputs = decode_inputs()
    kept = recorded(DECODE, AXES, inputs).inputs
    assert list(kept) == list(DECODE.inputs)
    assert {name for name, value in kept.items() if value is RANDOM} == {"q", "k_cache", "v_cache"}
    assert torch.equal(kept["kv_indptr"], inputs[3])
    assert torch.equal(kept["kv_indices"], inputs[4])
    assert kept["kv_indices"].dtype == torch.int32


@pytest.mark.parametrize(
    ("family", "constants", "structural"),
    [
        ("gemm", {"n": 2, "k": 3}, set()),
        ("rmsnorm", {"hidden_size": 4, "eps": 1e-5}, set()),
        ("rope", {"head_dim": 4, "rotary_dim": 4, "is_neox": True}, {"positions"}),
        (
            "moe",
            {"topk": 1, "num_experts": 2, "hidden_size": 4, "intermediate_size": 4},
            {"topk_weights", "topk_ids"},
        ),
        ("top_k_top_p_sampling", {"vocab_size": 8}, {"top_k", "top_p"}),
    ],
)
def test_every_family_keeps_what_decides_its_work(family: str, constants: dict[str, Any], structural: set[str]) -> None:
    definition = ops.ALL[family].definition(**constants)
    axes = dict.fromkeys(definition.var_axes, 2)
    sizes = {**axes, **definition.const_axes}
    inputs = tuple(torch.zeros([sizes[axis] for axis in spec.shape or ()]) for spec in definition.inputs.values())
    kept = recorded(definition, axes, inputs).inputs
    assert {name for name, value in kept.items() if value is not RANDOM} == structural


def test_changing_the_live_tensor_afterwards_does_not_change_the_record() -> None:
    inputs = decode_inputs()
    before = inputs[4].clone()
    kept = recorded(DECODE, AXES, inputs).inputs
    inputs[3].fill_(-1)
    inputs[4].zero_()
    assert torch.equal(kept["kv_indices"], before)
    assert kept["kv_indptr"].tolist() == [0, 2, 5]


def test_a_slice_of_a_large_buffer_is_kept_without_the_buffer() -> None:
    buffer = torch.arange(1000, dtype=torch.int32)
    inputs = (*decode_inputs()[:4], buffer[::200], 0.25)
    kept = recorded(DECODE, AXES, inputs).inputs["kv_indices"]
    assert kept.tolist() == [0, 200, 400, 600, 800]
    assert kept.is_contiguous()
    assert kept.untyped_storage().nbytes() == 5 * 4


def test_a_tensor_that_wants_gradients_is_kept_without_them() -> None:
    weights = torch.rand(2, 1, requires_grad=True)
    definition = ops.ALL["moe"].definition(topk=1, num_experts=2, hidden_size=4, intermediate_size=4)
    ids = torch.zeros(2, 1, dtype=torch.int32)
    x = torch.zeros(2, 4)
    kept = recorded(definition, {"num_tokens": 2}, (x, x, x, weights, ids)).inputs["topk_weights"]
    assert not kept.requires_grad


@pytest.mark.parametrize(
    ("scale", "value"), [(0.25, 0.25), (2, 2), (True, True), (torch.tensor(0.5), 0.5), (torch.tensor([0.5]), 0.5)]
)
def test_scalars_are_kept_as_plain_numbers(scale: Any, value: Any) -> None:
    kept = recorded(DECODE, AXES, decode_inputs(scale)).inputs["sm_scale"]
    assert kept == value
    assert type(kept) is type(value)


def test_a_record_of_host_tensors_is_ready_at_once() -> None:
    assert recorded(DECODE, AXES, decode_inputs()).ready is None


def test_a_definition_of_no_family_is_kept_by_shape() -> None:
    custom = DECODE.model_copy(update={"op_type": "custom"})
    kept = recorded(custom, AXES, decode_inputs()).inputs
    assert {name for name, value in kept.items() if value is not RANDOM} == {"sm_scale"}


def test_the_op_that_the_engine_ran_is_asked_of_the_adapter_and_kept() -> None:
    asked: list[tuple[str, str]] = []
    mark: Any = object()

    def displaced(adapter: str, definition: Definition) -> Any:
        asked.append((adapter, definition.name))
        return mark

    record = recorded(DECODE, AXES, decode_inputs(), displaced=displaced)
    assert asked == [("toy", DECODE.name)]
    assert record.displaced is mark
    assert (record.definition, record.axes) == (DECODE, AXES)


def test_a_call_with_too_few_inputs_is_an_error_and_no_record() -> None:
    writer: Any = Kept()
    with pytest.raises(ValueError, match="shorter"):
        Recorder(writer, lambda adapter, definition: None).record("toy", DECODE, AXES, decode_inputs()[:-1])
    assert writer.records == []
