"""Recorder: structural inputs by value and private, scalars by value, the rest by shape; nothing waits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fib_plugin import ops
from fib_plugin.capture import recorder as recorder_module
from fib_plugin.capture.config import CaptureConfig, Limits, Rule
from fib_plugin.capture.policy import Policy
from fib_plugin.capture.recorder import Recorder
from fib_plugin.capture.writer import RANDOM, Record
from fib_plugin.schema import Definition

DECODE = ops.ALL["gqa_paged_decode"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=8)
AXES = {"batch_size": 2, "num_pages": 16, "len_indptr": 3, "num_kv_indices": 5}


class Kept:
    """Stands where the writer is."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.full = False

    def submit(self, record: Record) -> bool:
        if not self.full:
            self.records.append(record)
        return not self.full


def recorded(definition: Definition, axes: dict[str, int], inputs: tuple[Any, ...], **options: Any) -> Record:
    writer: Any = Kept()
    policy = Policy(CaptureConfig(default=Rule(dump=options.get("dump"))))
    recorder = Recorder(writer, options.get("displaced", lambda adapter, definition: None), policy)
    assert recorder.record("toy", definition, axes, inputs)
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
    with pytest.raises(ValueError, match="has 6 inputs, the call 5"):
        Recorder(writer, lambda adapter, definition: None).record("toy", DECODE, AXES, decode_inputs()[:-1])
    assert writer.records == []


# ---- what the policy says -------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(recorder_module.time, "monotonic", lambda: now[0])
    return now


def make(**rule: Any) -> tuple[Recorder, Kept]:
    writer: Any = Kept()
    limit = rule.pop("limit", None)
    config = CaptureConfig(default=Rule(**rule), quota=Limits(workloads_per_definition=limit))
    return Recorder(writer, lambda adapter, definition: None, Policy(config)), writer


def test_dump_all_keeps_activations_and_caches_too() -> None:
    inputs = decode_inputs()
    kept = recorded(DECODE, AXES, inputs, dump="all").inputs
    assert all(torch.equal(value, live) for value, live in zip(list(kept.values())[:5], inputs, strict=False))
    assert kept["q"].data_ptr() != inputs[0].data_ptr()


def test_a_list_keeps_its_inputs_beside_the_structural_ones() -> None:
    kept = recorded(DECODE, AXES, decode_inputs(), dump=["q"]).inputs
    assert {name for name, value in kept.items() if value is RANDOM} == {"k_cache", "v_cache"}


def test_an_input_whose_data_is_not_at_hand_is_kept_by_shape() -> None:
    inputs = (None, None, None, *decode_inputs()[3:])
    kept = recorded(DECODE, AXES, inputs, dump="all").inputs
    assert {name for name, value in kept.items() if value is RANDOM} == {"q", "k_cache", "v_cache"}


def test_a_call_that_the_policy_leaves_is_settled_and_not_written() -> None:
    recorder, writer = make(keep="off")
    assert recorder.record("toy", DECODE, AXES, decode_inputs(), key=1)
    assert writer.records == []


def test_a_second_call_of_a_key_is_settled_and_not_written() -> None:
    recorder, writer = make()
    for adapter, key in (("toy", 1), ("toy", 1), ("toy", 2), ("other", 1)):
        assert recorder.record(adapter, DECODE, AXES, decode_inputs(), key=key)
    assert len(writer.records) == 3


def test_a_call_that_its_caller_has_sampled_is_written_although_its_key_is_known() -> None:
    recorder, writer = make()
    for _ in range(3):
        assert recorder.record("toy", DECODE, AXES, decode_inputs(), chosen=True)
    assert len(writer.records) == 3


def test_a_call_that_the_writer_refuses_is_to_be_tried_again(clock: list[float]) -> None:
    recorder, writer = make()
    writer.full = True
    assert not recorder.record("toy", DECODE, AXES, decode_inputs(), key=1)
    writer.full = False
    clock[0] += 1
    assert recorder.record("toy", DECODE, AXES, decode_inputs(), key=1)
    assert len(writer.records) == 1


def test_while_the_writer_is_full_nothing_is_copied(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, writer = make()
    writer.full = True
    assert not recorder.record("toy", DECODE, AXES, decode_inputs(), key=1)
    monkeypatch.setattr(recorder, "_copy", lambda *args: pytest.fail("copied"))
    assert not recorder.record("toy", DECODE, AXES, decode_inputs(), key=2)
    assert recorder.status()["policy"]["definitions"][DECODE.name]["skipped"] == {"backing_off": 1}


def test_while_stopped_a_call_is_to_be_tried_again() -> None:
    recorder, writer = make()
    recorder.policy.run(False)
    assert not recorder.record("toy", DECODE, AXES, decode_inputs(), key=1)
    recorder.policy.run(True)
    assert recorder.record("toy", DECODE, AXES, decode_inputs(), key=1)
    assert len(writer.records) == 1


def test_a_call_that_cannot_be_copied_is_not_counted_as_taken() -> None:
    recorder, writer = make()
    with pytest.raises(ValueError, match="has 6 inputs, the call 5"):
        recorder.record("toy", DECODE, AXES, decode_inputs()[:-1], key=1)
    assert recorder.record("toy", DECODE, AXES, decode_inputs(), key=1)
    assert len(writer.records) == 1


def test_a_part_of_the_beat_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, _ = make()
    armed = []
    monkeypatch.setattr(recorder._snapshots, "prepare", lambda: 1 / 0)
    monkeypatch.setattr(recorder.missed, "arm", lambda: armed.append(1))
    recorder.beat()
    recorder.beat()
    assert len(armed) == 2


def test_a_forked_child_can_record_although_the_parent_was_recording_then() -> None:
    recorder, writer = make(limit=1)
    plan = recorder.policy.plan(DECODE)
    assert recorder.record("toy", DECODE, AXES, decode_inputs(), key=1)
    plan.lock.acquire()
    recorder.missed._lock.acquire()
    recorder.forked()
    assert recorder.policy.taken == 0
    recorder.missed.arm()
    assert recorder.record("toy", DECODE, AXES, decode_inputs(), key=2)
    assert len(writer.records) == 2
