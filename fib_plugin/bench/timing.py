"""Hot: times calls inside the child. Interleaved A B A B, so that what slows one sample slows its partner too."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

# Bound before any solution is imported: a solution that replaces the clock later replaces nothing here.
_now = time.perf_counter_ns
_collect, _enable, _disable = gc.collect, gc.enable, gc.disable

_SAMPLE_NS = 120_000
_MOST_PAIRS = 151
#: A solution this many times slower than the displaced op has lost; one sample says so as well as many.
_HOPELESS = 3.0

Sample = Callable[[Callable[..., Any], Sequence[Sequence[Any]]], float]

#: What is timed, and the input sets that it rotates through.
Contestant = tuple[Callable[..., Any], Sequence[Sequence[Any]]]


def measure(contestants: Sequence[Contestant], seconds: float, device: str) -> list[list[float]]:
    """Nanoseconds per call of each contestant, one value a sample, taken in turns over their rotating input sets.

    All contestants have the same number of sets.
    """
    sample = _sample_cuda if device.startswith("cuda") else _sample_cpu
    _collect()
    _disable()
    try:
        return _interleave(contestants, seconds, sample)
    finally:
        _enable()


def _interleave(contestants: Sequence[Contestant], seconds: float, sample: Sample) -> list[list[float]]:
    count = _visit(contestants, seconds, sample)
    contestants = [(call, sets[:count]) for call, sets in contestants]
    estimates = [_estimate(call, sets, seconds, sample) for call, sets in contestants]
    repeats = [max(1, min(2048, round(_SAMPLE_NS / estimate))) for estimate in estimates]
    pair_ns = sum(estimate * repeat for estimate, repeat in zip(estimates, repeats, strict=True))
    affordable = int(seconds * 1e9 / pair_ns)
    fewest = 7 if pair_ns < 2e8 else 5 if pair_ns < 1e9 else 3
    if len(contestants) == 1 or estimates[0] > _HOPELESS * min(estimates[:2]):
        fewest = 1
    pairs = max(fewest, min(_MOST_PAIRS, affordable))
    # A and B start half a round apart: neither finds its inputs warmed by the other.
    position = [index * (count // len(contestants)) for index in range(len(contestants))]
    found: list[list[float]] = [[] for _ in contestants]
    for _ in range(pairs):
        for index, (call, sets) in enumerate(contestants):
            chunk = [sets[(position[index] + step) % count] for step in range(repeats[index])]
            position[index] += repeats[index]
            found[index].append(sample(call, chunk))
    return found


def _visit(contestants: Sequence[Contestant], seconds: float, sample: Sample) -> int:
    """Call everything once on each set: ops plan and pack weights at first sight, once per layer in an engine.

    Returns how many sets there was time for.
    """
    start = _now()
    total = len(contestants[0][1])
    for index in range(total):
        for call, sets in contestants:
            sample(call, [sets[index]])
        if _now() - start > seconds * 1e9:
            return index + 1
    return total


def _estimate(call: Callable[..., Any], sets: Sequence[Sequence[Any]], seconds: float, sample: Sample) -> float:
    """Nanoseconds of a call, roughly."""
    spent, best = 0.0, float("inf")
    for count in range(2 * len(sets)):
        took = sample(call, [sets[count % len(sets)]])
        spent, best = spent + took, min(best, took)
        if spent > 0.05 * seconds * 1e9:
            break
    return max(best, 1.0)


def _sample_cpu(call: Callable[..., Any], chunk: Sequence[Sequence[Any]]) -> float:
    start = _now()
    for arguments in chunk:
        call(*arguments)
    return (_now() - start) / len(chunk)


def _sample_cuda(call: Callable[..., Any], chunk: Sequence[Sequence[Any]]) -> float:
    import torch

    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for arguments in chunk:
        call(*arguments)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e6 / len(chunk)
