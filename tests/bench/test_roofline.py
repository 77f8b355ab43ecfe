"""Roof and floor of a call: the floor lies below every honest kernel and above a call that does nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fib_plugin import ops
from fib_plugin.bench import bandwidth
from fib_plugin.bench.roofline import floor_ms, roofline

ACTIVATION = ops.ALL["silu_and_mul"].definition(d=1 << 16, dtype="float32")
GEMM = ops.ALL["gemm"].definition(n=512, k=512, dtype="float32")


def best_ms(call: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(9):
        start = time.perf_counter()
        call()
        best = min(best, (time.perf_counter() - start) * 1e3)
    return best


@pytest.mark.parametrize("rows", [1, 4, 16, 64])
def test_no_kernel_that_moves_the_bytes_is_faster_than_the_floor(rows: int) -> None:
    """A copy of as many bytes is the quickest that could be honest; caches are warm, which helps it most."""
    floor = floor_ms(ACTIVATION, {"batch_size": rows}, threads=torch.get_num_threads())
    total = roofline(ACTIVATION, {"batch_size": rows}, threads=torch.get_num_threads()).traffic.total
    source = torch.zeros(total // 8)
    target = torch.empty_like(source)
    assert best_ms(lambda: target.copy_(source)) > floor
    assert best_ms(lambda: target.fill_(1.0)) * 2 > floor
    assert best_ms(lambda: torch.sum(source)) * 2 > floor


def test_a_call_that_does_nothing_is_below_the_floor_of_a_large_op() -> None:
    assert best_ms(lambda: None) < floor_ms(ACTIVATION, {"batch_size": 64}, threads=1) / 10


def test_the_floor_grows_with_what_is_moved() -> None:
    small, large = (floor_ms(ACTIVATION, {"batch_size": rows}, threads=1) for rows in (2, 256))
    assert large > 20 * small


def test_the_more_a_set_of_calls_goes_through_the_less_a_cache_helps() -> None:
    near = floor_ms(ACTIVATION, {"batch_size": 1}, threads=1)
    assert floor_ms(ACTIVATION, {"batch_size": 1}, threads=1, moving=512 << 20) > near


def test_an_op_with_many_operations_is_bound_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    # A machine of known rates: what a busy one is measured at says nothing about which of them is the greater.
    module = sys.modules[roofline.__module__]
    monkeypatch.setattr(module, "bandwidth", lambda *_: bandwidth.Bandwidth(1e10, 1e10))
    monkeypatch.setattr(module, "arithmetic", lambda *_: 1e11)
    one, many = (roofline(GEMM, {"M": rows}, threads=1) for rows in (1, 2048))
    assert (one.bound, many.bound) == ("memory", "compute")
    assert many.roof_ms > many.floor_ms
    assert many.share(many.roof_ms * 4) == pytest.approx(0.25)
    assert many.share(0.0) == 0.0


def test_a_torch_product_of_low_precision_that_the_cpu_emulates_does_not_lower_the_roof() -> None:
    full, low = (bandwidth.arithmetic(dtype, "cpu", 1) for dtype in ("float32", "bfloat16"))
    assert full is not None
    assert low is not None
    assert low >= full


def test_types_that_torch_cannot_multiply_leave_the_roof_to_memory() -> None:
    definition = ops.ALL["gemm"].definition(n=512, k=512, dtype="float4_e2m1")
    assert roofline(definition, {"M": 4}, threads=1).roof_ms > 0


def test_the_machine_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = bandwidth.bandwidth(1 << 20, "cpu", 1)
    monkeypatch.setattr(bandwidth, "_best_seconds", lambda call: pytest.fail("measured again"))
    assert bandwidth.bandwidth((1 << 20) + 5, "cpu", 1) == first


def test_measuring_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    bandwidth.bandwidth(1 << 21, "cpu", before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("rows", [8, 128, 2048])
def test_no_copy_on_a_gpu_is_faster_than_the_floor(rows: int) -> None:
    floor = floor_ms(ACTIVATION, {"batch_size": rows}, device="cuda")
    total = roofline(ACTIVATION, {"batch_size": rows}, device="cuda").traffic.total
    source = torch.zeros(total // 8, device="cuda")
    target = torch.empty_like(source)
    assert min(bandwidth._gpu_seconds(lambda: target.copy_(source), 8) for _ in range(9)) * 1e3 > floor
