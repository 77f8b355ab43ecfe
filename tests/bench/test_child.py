"""The line between parent and child."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest
import torch

from fib_plugin.bench import wire
from fib_plugin.bench.blob import Blob, changed, fill, plan, poison
from fib_plugin.bench.child import Child, Place, owed_s
from fib_plugin.bench.host import physical_cores
from fib_plugin.bench.line import WireError, receive_owed, receive_reply, send


def test_tensors_of_every_kind_survive_a_blob() -> None:
    inputs = [
        torch.randn(3, 5).to(torch.bfloat16),
        torch.randn(0, 4),
        2.5,
        torch.arange(7, dtype=torch.int32),
        torch.randn(8).to(torch.float8_e4m3fn),
        torch.tensor([True, False]),
    ]
    layout = plan(inputs, [(torch.float32, (2,)), (torch.int64, (3,)), (torch.float8_e5m2, (4,))])
    blob = Blob(layout.size)
    fill(blob, layout, inputs)
    poison(blob, layout)
    assert changed(blob, layout, inputs) == []
    floats, integers, eighths = (blob.tensor(place) for place in layout.outputs)
    assert floats.isnan().all()
    assert (integers == torch.iinfo(torch.int64).max).all()
    assert eighths.float().isnan().all()
    blob.tensor(layout.inputs[3]).add_(1)  # type: ignore[arg-type]
    assert changed(blob, layout, inputs) == [3]


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux only")
def test_the_other_side_cannot_cut_the_memory_short() -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(Blob(4096).descriptor, 0)


@pytest.mark.parametrize("noise", [b"\x03\x00\x00\x00abc", b"\xff\xff\xff\xff", b"\x01"])
def test_noise_on_the_line_is_an_error_and_not_a_wait(noise: bytes) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(noise)
    theirs.close()
    with pytest.raises(WireError):
        receive_reply(ours, time.monotonic() + 5)


def test_half_a_message_times_out() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"\x10\x00\x00\x00ab")
    with pytest.raises(TimeoutError):
        receive_reply(ours, time.monotonic() + 0.2)


def test_an_answer_that_had_no_core_is_waited_for() -> None:
    ours, theirs = socket.socketpair()
    threading.Timer(0.4, send, (theirs, wire.Ready())).start()
    assert receive_owed(ours, time.monotonic() + 0.05, lambda: 60.0) == wire.Ready()


def test_nothing_is_owed_to_who_had_a_core() -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(TimeoutError):
        receive_owed(ours, time.monotonic() + 0.05, lambda: 0.0)


def test_a_limit_is_put_off_by_what_was_waited_and_not_without_end() -> None:
    assert owed_s(2_000_000_000, 30.0) == 2.0
    assert owed_s(10**13, 30.0) == 90.0
    assert owed_s(-5, 30.0) == 0.0  # threads that ended take their account along


def test_closing_a_child_ends_what_it_started(tmp_path: Path) -> None:
    child = Child(Place("cpu", 1, tmp_path), None)
    child.request(wire.Detach("none"), 10.0)
    pid = child._process.pid
    child.close()
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


def test_there_is_a_core() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)
