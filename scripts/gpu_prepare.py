"""From captured workloads to trusted solutions, without a command line: merge, pack, bench within a budget, trust.

gpu_decode.py runs it in a process of its own. It needs no more than what an engine's host has.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def prepare(dataset: Path, lock: Path, solutions: list[str] | None, workloads: int, budget: float) -> None:
    """Prints one JSON object: what was packed, what each benchmark said, what is trusted.

    Args:
        solutions: names or globs; None takes all that fit this host.
        workloads: how many a definition, the most called first.
        budget: seconds for the benchmark; each definition has a share.
    """
    from fib_plugin import pack
    from fib_plugin.bench import BenchError, run_bench
    from fib_plugin.dataset import TraceSet, current_environment, load_measurements, merge
    from fib_plugin.dispatch import trust

    merge(dataset, every=True)
    problems: list[str] = []
    packed = 0

    def note(*_: object) -> None:
        nonlocal packed
        packed += 1

    pack.pack(dataset, None, note)
    traces = TraceSet.from_path(dataset, strict=False)

    def tell(progress: Any) -> None:
        if progress.problem:
            problems.append(progress.problem)
        if progress.doing:
            print(progress.doing, file=sys.stderr, flush=True)

    stop_at = time.monotonic() + budget
    names = sorted(traces.workloads)
    for index, name in enumerate(names):
        # Its share of what is left: the last definition counts as much as the first.
        share = (stop_at - time.monotonic()) / (len(names) - index)
        try:
            run_bench(traces, [name], solutions, workloads, True, tell, budget=max(share, 0.0))
        except BenchError as error:
            problems.append(str(error))
    measured = load_measurements(dataset)
    known = trust.Benchmarks(measured, current_environment())
    contents = trust.Contents.of(dataset)
    passed = {
        s.name: (s, one) for s in contents.solutions.values() if known.refusal(s) is None and (one := known.passed(s))
    }
    added = trust.add(lock, {n: s for n, (s, _) in passed.items()}, {n: one for n, (_, one) in passed.items()})
    print()
    print(
        json.dumps(
            {
                "packed": packed,
                "problems": problems,
                "trusted": [change.entry.name for change in added],
                "results": [
                    row(one)
                    for one in measured
                    if one.solution not in contents.solutions or contents.solutions[one.solution].author != "engine"
                ],
            }
        )
    )


def row(one: Any) -> dict[str, Any]:
    return {
        "definition": one.definition,
        "axes": one.axes,
        "solution": one.solution,
        "status": one.status,
        "ms": one.solution_ms,
        "displaced_ms": one.baseline_ms,
        "ratio": one.ratio,
        "at_least": one.ratio_low,
    }
