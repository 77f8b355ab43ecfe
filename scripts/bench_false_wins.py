"""How often `fib bench` sees a win where there is none, and how often it sees one that is there.

    python scripts/bench_false_wins.py [--copies 20] [--threads 1] [--busy N]

The same op under many hashes is benched against itself (a null experiment: every win is a false one), and against
itself with a tenth more work. Ops of several sizes, from some microseconds to a millisecond; ``--busy`` keeps so many
processes running beside them. The last line is one JSON object:

    null, null_wins           comparisons of equals, and of them those with a lower end above 1
    null_wins_by_margin       above 1 + FIB_APPLY_MARGIN, which an engine asks for
    tenth, tenth_wins, ...    likewise of what is 1.10 times as fast
    null_covered              share of the nulls' intervals that hold 1
    null_spread               standard deviation of the nulls' ratios, by their median distance from 1
    held                      share of the time for which sides wanted a core and had none, in the mean
    looked_twice              comparisons whose first look seemed to win
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: So often a call of the heavier op computes what it returns; the other one once more in ten.
_TIMES = 10
_SILU = """import torch

def run(x):
    d = x.shape[-1] // 2
    for _ in range({times}):
        y = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    return y
"""
_GEMM = """import torch

def run(A, B):
    for _ in range({times}):
        y = torch.nn.functional.linear(A, B)
    return y
"""
_SPIN = "while True:\n    sum(range(100000))\n"


@dataclass(frozen=True)
class Op:
    """``times``: None computes once, and is only compared with its equal."""

    family: str
    constants: dict[str, int]
    axes: dict[str, int]
    source: str
    times: int | None = _TIMES


_OPS = (
    Op("silu_and_mul", {"d": 64}, {"batch_size": 1}, _SILU, None),
    Op("silu_and_mul", {"d": 256}, {"batch_size": 4}, _SILU),
    Op("silu_and_mul", {"d": 4096}, {"batch_size": 16}, _SILU),
    Op("gemm", {"n": 1024, "k": 512}, {"M": 16}, _GEMM, None),
    Op("gemm", {"n": 512, "k": 496}, {"M": 16}, _GEMM),
)


def compare(op: Op, copies: int, more: int, threads: int, folder: Path) -> list[Any]:
    """Measurements of ``copies`` hashes of ``op`` against one that computes ``more`` times more often."""
    from fib_plugin import ops
    from fib_plugin.bench import run_bench
    from fib_plugin.dataset import TraceSet
    from fib_plugin.schema import BuildSpec, Language, RandomInput, Solution, SourceFile, Trace, Workload

    constants: dict[str, Any] = dict(op.constants)
    definition = ops.ALL[op.family].definition(dtype="float32", **constants)
    traces = TraceSet(folder / f"{definition.name}-{more}")
    traces.add_definition(definition)

    def add(name: str, author: str, times: int) -> None:
        spec = BuildSpec(
            language=Language.PYTHON,
            target_hardware=["cpu", "cuda"],
            entry_point="main.py::run",
            dependencies=["torch"],
            destination_passing_style=False,
        )
        source = SourceFile(path="main.py", content=f"{op.source.format(times=times)}\n# {name}\n")
        traces.add_solution(Solution(name=name, definition=definition.name, author=author, spec=spec, sources=[source]))

    times = op.times or 1
    add("op", "engine", times + more)
    for number in range(copies):
        add(f"equal_{number}", "someone", times)
    inputs: Any = {name: RandomInput() for name in definition.inputs}
    load = Workload(axes=op.axes, inputs=inputs, uuid="w")
    traces.add_workloads([Trace(definition=definition.name, workload=load)])
    found = run_bench(traces, solutions=["equal_*"], threads=threads, cache=folder / "cache", save=False)
    failed = [f"{one.status.value}: {one.log[:300]}" for one in found if one.measurement.baseline != "op"]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(found)} could not be compared: {failed[0]}")
    return [one.measurement for one in found]


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    started = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


def count_looks() -> list[int]:
    """How many comparisons were looked at again, once they were."""
    from fib_plugin.bench import examiner

    looks = [0]
    look: Any = examiner.Examiner._look_again

    def counted(*arguments: Any) -> Any:
        looks[0] += 1
        return look(*arguments)

    setattr(examiner.Examiner, "_look_again", counted)  # noqa: B010
    return looks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=20, help="of each op")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--busy", type=int, default=0, help="processes that run beside it")
    arguments = parser.parse_args()
    looks, nulls, tenths = count_looks(), [], []
    with tempfile.TemporaryDirectory(prefix="fib-wins-") as folder, busy(arguments.busy):
        for op in _OPS:
            found = compare(op, arguments.copies, 0, arguments.threads, Path(folder))
            nulls += found
            print(told(op, "equal", found), flush=True)
            if op.times is not None:
                found = compare(op, max(1, arguments.copies // 2), 1, arguments.threads, Path(folder))
                tenths += found
                print(told(op, "1.10", found), flush=True)
    print(json.dumps(summary(nulls, tenths, looks[0], arguments)))


def told(op: Op, kind: str, found: list[Any]) -> str:
    ratios = [one.ratio for one in found]
    wins = sum(one.ratio_low > 1.0 for one in found)
    size = " ".join(f"{axis}={size}" for axis, size in (*op.constants.items(), *op.axes.items()))
    return f"{op.family} {size}, {kind}: {wins} wins of {len(found)}, ratios {min(ratios):.3f} to {max(ratios):.3f}"


def summary(nulls: list[Any], tenths: list[Any], looks: int, arguments: argparse.Namespace) -> dict[str, Any]:
    from fib_plugin import settings
    from fib_plugin.dataset import current_environment

    least = 1.0 + settings.load().apply_margin
    away = [abs(math.log(one.ratio)) for one in nulls]
    held = [one.conditions.held for one in (*nulls, *tenths) if one.conditions is not None]
    return {
        "hardware": current_environment().hardware,
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "busy": arguments.busy,
        **wins("null", nulls, least),
        **wins("tenth", tenths, least),
        "null_covered": round(sum(one.ratio_low <= 1.0 <= one.ratio_high for one in nulls) / len(nulls), 3),
        "null_spread": round(1.4826 * statistics.median(away), 4),
        "held": round(statistics.fmean(held), 3),
        "looked_twice": looks,
    }


def wins(name: str, found: list[Any], least: float) -> dict[str, int]:
    return {
        name: len(found),
        f"{name}_wins": sum(one.ratio_low > 1.0 for one in found),
        f"{name}_wins_by_margin": sum(one.ratio_low > least for one in found),
    }


if __name__ == "__main__":
    main()
