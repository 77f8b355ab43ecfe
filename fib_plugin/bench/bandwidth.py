"""Bandwidth and arithmetic of this machine, measured once per process: what rooflines and the floor are drawn with."""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_LEAST = 256 << 10
_MOST = 512 << 20
_SECONDS = 0.03
_FEWEST = 5
#: An inner cache that is too small or too quick to be measured by calls from Python: so much faster than what can be.
_INNER_CACHE = 4.0
_lock = threading.RLock()


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes per second for one size of working set.

    Args:
        reached: the best that a plain copy or a plain read reached here.
        most: what no kernel exceeds: every thread at the rate of a thread that runs alone, caches included.
    """

    reached: float
    most: float


def bandwidth(moving: int, device: str, threads: int) -> Bandwidth:
    """For calls that move through ``moving`` bytes in all, input sets that take turns included.

    Sizes count by class, rounded down: the smaller a working set is, the nearer to the core it lies.
    """
    with _lock:
        if device.startswith("cuda"):
            return _of_gpu(moving, device)
        size = max(_LEAST, min(1 << max(moving, 1).bit_length() - 1, _largest_class()))
        reached = _cpu_rate(size, threads)
        alone = reached if threads == 1 else _cpu_rate(max(_LEAST, size // threads), 1)
        most = max(reached, threads * alone)
        return Bandwidth(reached, most * _INNER_CACHE if moving < _LEAST * threads else most)


def arithmetic(dtype: str, device: str, threads: int) -> float | None:
    """Operations per second of a large matrix product in ``dtype``; None where torch has none.

    On a CPU without units for ``dtype`` that of float32 counts, to which a kernel may convert.
    """
    with _lock:
        if device.startswith("cuda"):
            return _gpu_product_rate(dtype, device)
        rates = [_cpu_product_rate(kind, threads) for kind in {"float32", dtype}]
        return max((rate for rate in rates if rate is not None), default=None)


def cache_bytes(device: str) -> int:
    """Size of the last cache before memory: a GPU's L2, a CPU's L3; a common size where the device does not tell."""
    if device.startswith("cuda"):
        import torch

        return int(getattr(torch.cuda.get_device_properties(torch.device(device)), "L2_cache_size", 0)) or 64 << 20
    try:
        told = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    except (ValueError, OSError):
        told = 0
    return told if told > 0 else 32 << 20


def _largest_class() -> int:
    """Past twice the last-level cache everything comes from memory."""
    wanted = min(_MOST, 2 * cache_bytes("cpu"))
    return 1 << (wanted - 1).bit_length()


@functools.cache
def _cpu_rate(size: int, threads: int) -> float:
    """The best of copying and reading; ``size`` bytes are touched by either."""
    import torch

    source = torch.zeros(size // 4, dtype=torch.float32)
    left, right = source[: size // 8], source[size // 8 :]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        best = min(_best_seconds(lambda: right.copy_(left)), _best_seconds(lambda: source.sum()))
    finally:
        torch.set_num_threads(before)
    return size / best


def _best_seconds(call: Callable[[], Any]) -> float:
    call()
    best, end, count = math.inf, time.perf_counter() + _SECONDS, 0
    while count < _FEWEST or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        count += 1
    return best


def _of_gpu(moving: int, device: str) -> Bandwidth:
    cache = cache_bytes(device)
    memory = _gpu_rate(device, max(4 * cache, 256 << 20))
    if moving >= 2 * cache:
        return Bandwidth(memory, memory)
    return Bandwidth(max(memory, _gpu_rate(device, cache // 2)), memory * _INNER_CACHE)


@functools.cache
def _gpu_rate(device: str, size: int) -> float:
    """Copies within the device; ``size`` bytes are touched by each."""
    import torch

    with torch.cuda.device(torch.device(device)):
        source = torch.zeros(size // 2, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        copies = 8
        best = min(_gpu_seconds(lambda: target.copy_(source), copies) for _ in range(10))
    return size / best


def _gpu_seconds(call: Callable[[], Any], calls: int) -> float:
    import torch

    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    call()
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / calls


@functools.cache
def _cpu_product_rate(dtype: str, threads: int) -> float | None:
    import torch

    side = 768 if dtype == "float32" else 256  # without units for a type, products of it take a hundred times longer
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a = torch.ones(side, side, dtype=getattr(torch, dtype))
        return 2 * side**3 / _best_seconds(lambda: a @ a)
    except (AttributeError, RuntimeError):  # no such type, or no product in it
        return None
    finally:
        torch.set_num_threads(before)


@functools.cache
def _gpu_product_rate(dtype: str, device: str) -> float | None:
    import torch

    side = 8192
    try:
        with torch.cuda.device(torch.device(device)):
            a = torch.ones(side, side, dtype=getattr(torch, dtype), device=device)
            return 2 * side**3 / min(_gpu_seconds(lambda: a @ a, 4) for _ in range(5))
    except (AttributeError, RuntimeError):  # no such type, no product in it, or no room
        return None
