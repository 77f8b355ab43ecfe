"""Roofline: how fast a call could be on this machine, and how fast no honest kernel is.

The roof compares a kernel with the machine; the floor is for judging: a time below it was not spent on the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fib_plugin.bench.bandwidth import Bandwidth, arithmetic, bandwidth
from fib_plugin.bench.traffic import Traffic, traffic
from fib_plugin.schema import Definition

#: By how much an honest kernel may beat what was measured: a machine that was busy just then, reads that are quicker
#: than copies, a sampler that stops early.
_SLACK = 2.0


@dataclass(frozen=True, slots=True)
class Roofline:
    """One call on one device.

    Args:
        traffic: what it must move and compute.
        bound: what the roof is made of: ``memory``, or ``compute`` for ops with a known number of operations.
        roof_ms: its time at the rates that plain copies, reads and torch's own products reached, overlapped.
        floor_ms: less than this is impossible.
    """

    traffic: Traffic
    bound: Literal["memory", "compute"]
    roof_ms: float
    floor_ms: float

    def share(self, ms: float) -> float:
        """How much of what the machine was seen to give a kernel of ``ms`` uses: about 1 is as good as it gets."""
        return self.roof_ms / ms if ms > 0 else 0.0


def roofline(
    definition: Definition,
    axes: Mapping[str, int],
    inputs: Sequence[Any] | None = None,
    *,
    device: str = "cpu",
    threads: int = 1,
    mutates: Sequence[str] = (),
    moving: int | None = None,
) -> Roofline:
    """The roofline of a call; the first one of a size measures the machine (tens of milliseconds).

    Args:
        inputs: the call's values in the definition's order, for ops that read by index.
        device, threads: where it runs.
        mutates: inputs that may be written in place.
        moving: bytes that timed calls go through before they come back to the same ones; None takes one call's,
            which can only make the floor lower.

    Example:
        >>> roofline(gemm, {"M": 1}, device="cpu", threads=2).share(solution_ms)
        0.83

    Raises:
        ValueError: a variable axis has no value.
    """
    moved, rate = _moved(definition, axes, inputs, device, threads, mutates, moving)
    memory_ms = moved.total / rate.reached * 1e3
    compute_ms = 0.0
    if moved.flops:
        peak = arithmetic(str(next(iter(definition.inputs.values())).dtype), device, threads)
        compute_ms = moved.flops / peak * 1e3 if peak else 0.0
    return Roofline(
        traffic=moved,
        bound="compute" if compute_ms > memory_ms else "memory",
        roof_ms=max(memory_ms, compute_ms),
        floor_ms=_floor_ms(moved, rate),
    )


def floor_ms(
    definition: Definition,
    axes: Mapping[str, int],
    inputs: Sequence[Any] | None = None,
    *,
    device: str = "cpu",
    threads: int = 1,
    mutates: Sequence[str] = (),
    moving: int | None = None,
) -> float:
    """Milliseconds below which no call can be: what it moves, at twice the rate this machine was seen to reach."""
    return _floor_ms(*_moved(definition, axes, inputs, device, threads, mutates, moving))


def _moved(
    definition: Definition,
    axes: Mapping[str, int],
    inputs: Sequence[Any] | None,
    device: str,
    threads: int,
    mutates: Sequence[str],
    moving: int | None,
) -> tuple[Traffic, Bandwidth]:
    """What a call moves, and the rate of the memory that it comes from."""
    moved = traffic(definition, axes, inputs, mutates)
    return moved, bandwidth(max(moving or 0, moved.total), device, threads)


def _floor_ms(moved: Traffic, rate: Bandwidth) -> float:
    return moved.total / (rate.most * _SLACK) * 1e3
