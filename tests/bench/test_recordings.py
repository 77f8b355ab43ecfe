"""A child's recordings, with a device that is pretended: what runs when, and what becomes of a failed capture."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fib_plugin.bench import recorder
from fib_plugin.bench.recorder import Recorder
from fib_plugin.dispatch.graph_clock import NotCapturable

SETS = [[1.0], [2.0], [3.0]]


class Device:
    """Notes what happens in which order; a recording here does not call anything."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.pools: list[Any] = []
        self.fails = False

    def call(self, value: float) -> float:
        self.log.append(value)
        return value

    def record(self, call: Any, chunk: Any, device: Any, stream: Any, pool: Any) -> Any:
        self.log.append(("record", [value for (value,) in chunk]))
        self.pools.append(pool)
        if self.fails:
            raise NotCapturable("it waits for the device")
        return SimpleNamespace(last=chunk[-1][0], pool=len(self.pools))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(recorder, "record", device.record)
    monkeypatch.setattr(recorder, "burst_graph", lambda recorded, calls: 10.0 * calls)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: "side")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: device.log.append("waited"))
    return device


def test_a_call_runs_once_on_each_set_before_it_is_recorded(device: Device) -> None:
    one, call = Recorder(), device.call
    assert one.record(call, SETS, [1, 2, 1]) == ""
    assert device.log == [2.0, 3.0, "waited", ("record", [2.0, 3.0, 2.0]), "waited"]
    assert one.record(call, SETS, [2, 0]) == ""
    assert device.log[5:] == [1.0, "waited", ("record", [3.0, 1.0]), "waited"]


def test_a_replay_is_of_all_calls_and_returns_what_the_last_one_writes(device: Device) -> None:
    one = Recorder()
    one.record(device.call, SETS, [0, 1, 2])
    assert one.replay() == (30.0, 3.0)


def test_the_next_recording_takes_over_the_memory(device: Device) -> None:
    one = Recorder()
    for _ in range(3):
        one.record(device.call, SETS, [0])
    assert device.pools == [None, 1, 2]


def test_no_work_takes_no_time(device: Device) -> None:
    one = Recorder()
    one.record(device.call, SETS, [0])
    assert one.record(None, SETS, [0, 1]) == ""
    assert one.replay() == (0.0, None)


def test_what_cannot_be_recorded_is_said_and_nothing_is_replayed(device: Device) -> None:
    one, device.fails = Recorder(), True
    assert "waits for the device" in one.record(device.call, SETS, [0])
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        one.replay()
