"""Snapshots on a GPU: no call waits for the device, none breaks a graph that another thread captures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

from capture_cases import numbers, record  # noqa: E402

from fib_plugin.capture.loss import Loss  # noqa: E402
from fib_plugin.capture.snapshot import Shot, Snapshots  # noqa: E402
from fib_plugin.capture.snapshot_pool import Pool  # noqa: E402
from fib_plugin.capture.writer import Writer  # noqa: E402


@pytest.fixture
def pool() -> Pool:
    torch.cuda.init()
    made = Pool()
    made.prepare()
    return made


@pytest.fixture
def no_sync() -> Iterator[None]:
    """An error for whatever waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def keep_busy(seconds: float) -> None:
    torch.cuda._sleep(int(seconds * 1.5e9))  # cycles


def take(snapshots: Snapshots, **tensors: torch.Tensor) -> Shot:
    shot = snapshots.take(tensors)
    assert isinstance(shot, Shot), shot
    return shot


def wait(shot: Shot, seconds: float = 20.0) -> None:
    assert shot.ready is not None
    end = time.monotonic() + seconds
    while not shot.ready():
        assert time.monotonic() < end, "the copy did not arrive"
        time.sleep(0.001)


def in_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def on_gpu(value: int, size: int = 1000) -> torch.Tensor:
    return torch.full((size,), value, dtype=torch.int32, device="cuda")


def test_a_snapshot_returns_before_the_device_is_done(pool: Pool, no_sync: None) -> None:
    snapshots = Snapshots(pool)
    wait(take(snapshots, x=on_gpu(0)))  # the first call makes stream and event
    source = on_gpu(7)
    keep_busy(0.5)
    started = time.monotonic()
    shot = take(snapshots, x=source)
    assert time.monotonic() - started < 0.1
    assert shot.ready is not None
    assert not shot.ready()
    wait(shot)
    assert shot.inputs["x"].tolist() == [7] * 1000


def test_the_first_call_of_a_process_waits_for_nothing_either(no_sync: None) -> None:
    source = on_gpu(3)
    shot = take(Snapshots(), x=source)
    wait(shot)
    assert shot.inputs["x"].tolist() == [3] * 1000


def test_what_the_engine_writes_into_the_buffer_next_is_not_in_it(pool: Pool, no_sync: None) -> None:
    snapshots = Snapshots(pool)
    buffer = on_gpu(0, 10_000)
    shots = []
    for value in range(50):
        buffer.fill_(value)
        shots.append(take(snapshots, x=buffer))
        buffer.fill_(-1)
    for value, shot in enumerate(shots):
        wait(shot)
        assert shot.inputs["x"].unique().tolist() == [value]


def test_memory_of_the_source_may_be_freed_and_used_again(pool: Pool, no_sync: None) -> None:
    snapshots = Snapshots(pool)
    shots = []
    for value in range(50):
        shots.append(take(snapshots, x=on_gpu(value, 10_000)))
        on_gpu(-1, 10_000)  # takes the freed memory
    for value, shot in enumerate(shots):
        wait(shot)
        assert shot.inputs["x"].unique().tolist() == [value]


def test_tensors_of_all_kinds_arrive_as_they_were(pool: Pool, no_sync: None) -> None:
    host = {
        "flag": torch.tensor([True, False, True]),
        "half": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
        "scale": torch.tensor(0.25, dtype=torch.float64),
        "turned": torch.arange(6, dtype=torch.int64).reshape(2, 3).t(),
        "eight": torch.tensor([1.0, -0.5]).to(torch.float8_e4m3fn),
    }
    torch.cuda.set_sync_debug_mode("default")
    device = {name: tensor.cuda() for name, tensor in host.items()}
    torch.cuda.set_sync_debug_mode("error")
    shot = take(Snapshots(pool), here=torch.ones(2), **device)
    wait(shot)
    assert shot.inputs["here"].tolist() == [1, 1]
    for name, tensor in host.items():
        kept = shot.inputs[name]
        assert kept.dtype == tensor.dtype
        assert torch.equal(in_bytes(kept), in_bytes(tensor)), name


def test_calls_that_come_faster_than_copies_are_refused_without_waiting(pool: Pool, no_sync: None) -> None:
    snapshots = Snapshots(pool)
    source = on_gpu(1)
    wait(take(snapshots, x=source))
    keep_busy(1.0)
    started = time.monotonic()
    answers = [snapshots.take({"x": source}) for _ in range(200)]
    assert time.monotonic() - started < 0.5
    refused = [answer for answer in answers if not isinstance(answer, Shot)]
    assert set(refused) == {Loss.SNAPSHOT_POOL_FULL}
    for answer in answers:
        if isinstance(answer, Shot):
            wait(answer)


def test_nothing_is_added_to_a_graph_that_this_thread_captures(pool: Pool) -> None:
    snapshots = Snapshots(pool)
    x = torch.ones(8, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x * 2
        answer = snapshots.take({"x": x})
    graph.replay()
    torch.cuda.synchronize()
    assert answer is Loss.GRAPH_CAPTURE
    assert y.tolist() == [2] * 8


def capture_slowly(started: threading.Event, polled: threading.Event, mode: str) -> list[float]:
    """Capture a graph while others go on, and run it."""
    x = torch.ones(8, device="cuda")
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode=mode):
        y = x * 2
        started.set()
        assert polled.wait(20)
        y = y + 1
    graph.replay()
    torch.cuda.synchronize()
    return list(y.tolist())


@pytest.mark.parametrize("mode", ["global", "thread_local", "relaxed"])
def test_a_snapshot_in_flight_does_not_break_a_graph_that_another_thread_captures(
    pool: Pool, root: Path, mode: str
) -> None:
    snapshots = Snapshots(pool)
    wait(take(snapshots, x=on_gpu(0)))
    writer = Writer(root)
    writer.start()
    started, polled = threading.Event(), threading.Event()
    results: list[Any] = []

    def capture() -> None:
        try:
            results.append(capture_slowly(started, polled, mode))
        except BaseException as error:
            results.append(error)

    source = on_gpu(5, 4)
    keep_busy(0.001)  # loads the kernel, which is not allowed while a graph is captured
    torch.cuda.synchronize()
    thread = threading.Thread(target=capture)
    side = torch.cuda.Stream()
    thread.start()
    try:
        with torch.cuda.stream(side):
            assert started.wait(20)
            # The device is busy, so that the writer's thread looks many times while the graph is captured.
            keep_busy(0.3)
            shot = take(snapshots, index=source)
        entry = record(0, **shot.inputs)
        entry.ready = shot.ready
        writer.submit(entry)
        time.sleep(0.1)
    finally:  # a capture left open would fail every test after this one
        polled.set()
        thread.join(30)
    assert results == [[3] * 8]
    assert writer.flush(20)
    assert numbers(root) == [5]
    writer.close()


def test_memory_is_pinned_beside_a_graph_that_another_thread_captures() -> None:
    started, polled = threading.Event(), threading.Event()
    results: list[Any] = []

    def capture() -> None:
        try:
            results.append(capture_slowly(started, polled, "global"))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=capture)
    thread.start()
    try:
        assert started.wait(20)
        # A size that no earlier test has pinned: torch keeps what was freed.
        made = Pool(((3 << 20, 1),))
        made.prepare()
    finally:
        polled.set()
        thread.join(30)
    assert results == [[3] * 8]
    assert made.largest == 3 << 20


def test_a_snapshot_costs_less_than_a_fraction_of_a_millisecond(pool: Pool, no_sync: None) -> None:
    """A loose bound; scripts/bench_capture.py prints the figure."""
    snapshots = Snapshots(pool)
    tensors = {"indptr": on_gpu(1, 65), "indices": on_gpu(2, 4096)}
    times = []
    for _ in range(200):
        started = time.perf_counter()
        shot = take(snapshots, **tensors)
        times.append(time.perf_counter() - started)
        wait(shot)
    assert sorted(times)[100] < 300e-6
