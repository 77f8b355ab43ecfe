"""Snapshots are private, complete before they are read, and refused rather than waited for. The device is a fake."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from fib_plugin.capture import snapshot as module
from fib_plugin.capture.loss import Loss
from fib_plugin.capture.snapshot import Piece, Shot, Snapshots
from fib_plugin.capture.snapshot_pool import Pool, Slot

SMALL = ((256, 2), (1024, 1))


class SlowLane:
    """Copies only when the test says so."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sent: list[tuple[torch.Tensor, Slot]] = []
        self.full = False

    def pack(self, pieces: Sequence[Piece], size: int) -> torch.Tensor:
        if self.full:
            raise torch.OutOfMemoryError
        stage = torch.zeros(size, dtype=torch.uint8)
        for piece in pieces:
            flat = piece.source.detach().contiguous().reshape(-1).view(torch.uint8)
            stage[piece.start : piece.start + piece.size] = flat
        return stage

    def send(self, stage: torch.Tensor, slot: Slot) -> None:
        self.sent.append((stage, slot))

    def arrive(self) -> None:
        """All that was sent, each one's flag after its data."""
        for stage, slot in self.sent:
            slot.data[: stage.numel()] = stage
            slot.flag.fill_(1)
        self.sent.clear()


class Device:
    """What the tests turn: the lane, and whether a graph is being captured."""

    def __init__(self) -> None:
        self.lane = SlowLane(torch.device("cpu"))
        self.capturing = False
        self.pool = Pool(SMALL, limit=8192, pinned=False)
        self.snapshots = Snapshots(self.pool, lambda device: self.lane)

    def take(self, **tensors: torch.Tensor) -> Shot:
        shot = self.snapshots.take(tensors)
        assert isinstance(shot, Shot), shot
        return shot


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Every tensor counts as one on a device."""
    made = Device()
    monkeypatch.setattr(module, "_on_device", lambda tensor: True)
    monkeypatch.setattr(module, "_capturing", lambda: made.capturing)
    return made


def arrived(ready: Callable[[], bool] | None) -> bool:
    """As the writer's thread looks: again and again."""
    assert ready is not None
    ready()
    return ready()


def numbers(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32)


# ---- tensors in host memory --------------------------------------------------------------------------------------


def test_a_host_tensor_is_cloned_and_ready_at_once() -> None:
    source = numbers(4)
    shot = Snapshots(Pool(pinned=False)).take({"x": source})
    assert isinstance(shot, Shot)
    source.zero_()
    assert shot.inputs["x"].tolist() == [0, 1, 2, 3]
    assert shot.ready is None


def test_host_tensors_pin_no_memory() -> None:
    pool = Pool(pinned=False)
    Snapshots(pool).take({"x": numbers(4)})
    Snapshots(pool).take({})
    assert pool.bytes == 0


def test_no_memory_is_pinned_before_the_process_uses_a_device() -> None:
    pool = Pool(pinned=False)
    Snapshots(pool).prepare()
    assert pool.bytes == 0


# ---- tensors on a device -----------------------------------------------------------------------------------------


def test_tensors_of_all_kinds_arrive_as_they_were(device: Device) -> None:
    tensors = {
        "index": numbers(7),
        "flag": torch.tensor([True, False, True]),
        "half": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
        "scale": torch.tensor(0.25, dtype=torch.float64),
        "slice": numbers(40)[::8],
        "turned": torch.arange(6, dtype=torch.int64).reshape(2, 3).t(),
        "empty": torch.empty(0, 3),
        "trained": torch.rand(2, requires_grad=True),
    }
    shot = device.take(**tensors)
    device.lane.arrive()
    assert arrived(shot.ready)
    for name, tensor in tensors.items():
        kept = shot.inputs[name]
        assert torch.equal(kept, tensor), name
        assert kept.dtype == tensor.dtype
        assert kept.is_contiguous()
        assert not kept.requires_grad


def test_it_is_not_ready_before_the_flag_follows_the_data(device: Device) -> None:
    shot = device.take(x=numbers(4))
    assert shot.ready is not None
    assert not shot.ready()
    ((stage, slot),) = device.lane.sent
    slot.data[: stage.numel()] = stage
    assert not shot.ready()
    assert not shot.ready()
    slot.flag.fill_(1)
    assert arrived(shot.ready)


def test_a_flag_is_believed_at_the_second_look(device: Device) -> None:
    shot = device.take(x=numbers(4))
    device.lane.arrive()
    assert shot.ready is not None
    assert [shot.ready(), shot.ready(), shot.ready()] == [False, True, True]


def test_what_the_engine_writes_afterwards_is_not_in_it(device: Device) -> None:
    source = numbers(4)
    shot = device.take(x=source)
    source.fill_(-1)
    device.lane.arrive()
    assert arrived(shot.ready)
    assert shot.inputs["x"].tolist() == [0, 1, 2, 3]


def test_pinned_memory_is_free_again_as_soon_as_the_data_is_there(device: Device) -> None:
    shots = []
    for number in range(20):
        shot = device.take(x=torch.full((16,), number, dtype=torch.int32))
        device.lane.arrive()
        assert arrived(shot.ready)
        shots.append(shot)
    assert [shot.inputs["x"][0].item() for shot in shots] == list(range(20))
    assert device.pool.bytes == 2 * 256 + 1024


def test_a_call_finds_the_next_larger_buffer_when_its_own_size_is_taken(device: Device) -> None:
    shots = [device.take(x=numbers(4)) for _ in range(3)]
    assert sorted(slot.size for _, slot in device.lane.sent) == [256, 256, 1024]
    del shots


def test_without_a_free_buffer_the_call_is_refused(device: Device) -> None:
    shots = [device.take(x=numbers(4)) for _ in range(3)]
    assert device.snapshots.take({"x": numbers(4)}) is Loss.SNAPSHOT_POOL_FULL
    device.lane.arrive()
    assert all(arrived(shot.ready) for shot in shots)
    device.take(x=numbers(4))


def test_a_buffer_that_was_given_up_is_not_used_before_its_copy_has_ended(device: Device) -> None:
    device.pool.take(256)
    device.pool.take(1024)
    shot: Any = device.take(x=numbers(4))
    del shot
    gc.collect()
    assert device.snapshots.take({"x": numbers(4)}) is Loss.SNAPSHOT_POOL_FULL
    device.lane.arrive()
    device.take(x=numbers(4))


def test_a_call_larger_than_any_buffer_is_refused_and_makes_room_for_the_next(device: Device) -> None:
    assert device.snapshots.take({"x": numbers(1000)}) is Loss.SNAPSHOT_TOO_LARGE
    device.pool.prepare()
    assert device.pool.largest == 4096
    shot = device.take(x=numbers(1000))
    device.lane.arrive()
    assert arrived(shot.ready)
    assert torch.equal(shot.inputs["x"], numbers(1000))


def test_room_is_made_up_to_the_limit_only(device: Device) -> None:
    for _ in range(5):
        assert device.snapshots.take({"x": numbers(100_000)}) is Loss.SNAPSHOT_TOO_LARGE
        device.pool.prepare()
    assert device.pool.bytes == 2 * 256 + 1024


def test_nothing_is_sent_while_a_graph_is_captured(device: Device) -> None:
    device.capturing = True
    assert device.snapshots.take({"x": numbers(4)}) is Loss.GRAPH_CAPTURE
    assert device.lane.sent == []
    assert device.pool.bytes == 0


def test_a_full_device_refuses_and_costs_no_buffer(device: Device) -> None:
    device.lane.full = True
    for _ in range(10):
        assert device.snapshots.take({"x": numbers(4)}) is Loss.DEVICE_FULL
    device.lane.full = False
    shot = device.take(x=numbers(4))
    device.lane.arrive()
    assert arrived(shot.ready)


def test_a_copy_that_could_not_be_started_costs_its_buffer_rather_than_anothers_data(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stage: torch.Tensor, slot: Slot) -> None:
        raise RuntimeError("device lost")

    with monkeypatch.context() as patch:
        patch.setattr(device.lane, "send", fail)
        with pytest.raises(RuntimeError, match="device lost"):
            device.snapshots.take({"x": numbers(4)})
    shots = [device.take(x=numbers(4)) for _ in range(2)]
    assert device.snapshots.take({"x": numbers(4)}) is Loss.SNAPSHOT_POOL_FULL
    del shots


def test_when_memory_cannot_be_pinned_calls_are_refused_and_it_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, device: Device
) -> None:
    asked: list[int] = []

    def refuse(size: int, **options: Any) -> None:
        asked.append(size)
        raise RuntimeError("cannot pin memory")

    pool = Pool(SMALL, pinned=True)
    monkeypatch.setattr(torch, "empty", refuse)
    for _ in range(3):
        assert pool.take(16) is None
        pool.prepare()
    assert len(asked) == 1


def test_a_snapshot_taken_in_inference_mode_is_read_outside_of_it(device: Device) -> None:
    with torch.inference_mode():
        shot = device.take(x=numbers(4))
    device.lane.arrive()
    assert arrived(shot.ready)
    with torch.inference_mode():
        later = device.take(x=numbers(5))
    device.lane.arrive()
    assert arrived(later.ready)
    assert later.inputs["x"].tolist() == [0, 1, 2, 3, 4]
