"""From captured workloads to trusted solutions, without a command line: pack, compile, bench in a budget, trust.

gpu_decode.py runs it in a process of its own. It needs no more than what an engine's host has.
"""

from __future__ import annotations

import fnmatch
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def compile_all(dataset: Path, solutions: list[str] | None) -> dict[str, Any]:
    """Packs what is shipped for the captured definitions and compiles what fits this host, on all cores.

    Args:
        solutions: names or globs; None takes all.
    """
    import torch

    from fib_plugin import pack
    from fib_plugin.dataset import TraceSet, merge

    began = time.monotonic()
    merge(dataset, every=True)
    packed: list[str] = []
    pack.pack(dataset, None, lambda solution, change: packed.append(solution.name))
    here = "cuda" if torch.cuda.is_available() else "cpp"
    wanted = [
        solution
        for each in TraceSet.from_path(dataset, strict=False).solutions.values()
        for solution in each
        if solution.spec.language.value == here
        and (not solutions or any(fnmatch.fnmatchcase(solution.name, pattern) for pattern in solutions))
    ]
    problems = compiled(wanted)
    seconds = round(time.monotonic() - began, 1)
    return {"packed": len(packed), "compiled": len(wanted), "problems": problems, "took_s": seconds}


def compile_trusted(dataset: Path, lock: Path, cache: Path | None = None) -> dict[str, Any]:
    """Compiles what the lock file trusts: an engine does not wait for it, and graphs made meanwhile hold its own ops.

    Args:
        cache: FIB_CACHE_PATH of the engine; None takes this process's.
    """
    from fib_plugin.dispatch.trust import Contents, Trust
    from fib_plugin.schema import content_hash

    began, trust = time.monotonic(), Trust.load(lock)
    native = [one for one in Contents.of(dataset).solutions.values() if one.spec.language.value in ("cpp", "cuda")]
    wanted = [one for one in native if trust.refusal(one.name, content_hash(one)) is None]
    problems = compiled(wanted, cache)
    return {"compiled": len(wanted), "problems": problems, "took_s": round(time.monotonic() - began, 1)}


def compiled(solutions: list[Any], cache: Path | None = None) -> dict[str, str]:
    """Compiles on all cores; name -> what the compiler said, for those that it refused."""
    from fib_plugin.build import BuildError, precompile

    problems: dict[str, str] = {}

    def build(solution: Any) -> None:
        try:
            precompile(solution, cache, retry=True)
        except BuildError as error:
            problems[solution.name] = str(error)[:500]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(build, solutions))
    return problems


def bench_all(dataset: Path, lock: Path, solutions: list[str] | None, workloads: int, budget: float) -> dict[str, Any]:
    """Benchmarks, and trusts what passed.

    Args:
        workloads: how many a definition, the most called first.
        budget: seconds for the benchmark; the definition that is called least (lm_head) comes last.
    """
    from fib_plugin.bench import BenchError, run_bench
    from fib_plugin.dataset import TraceSet, current_environment, load_counts, load_measurements
    from fib_plugin.dispatch import trust

    problems: list[str] = []
    traces = TraceSet.from_path(dataset, strict=False)

    def tell(progress: Any) -> None:
        if progress.problem:
            problems.append(progress.problem)
        if progress.doing:
            print(progress.doing, file=sys.stderr, flush=True)

    # What runs most comes first; few calls, so that the process that runs the kernels imports the engine few times.
    calls = {name: sum(counts.values()) for name, counts in load_counts(dataset).items() if name in traces.workloads}
    ordered = sorted(calls, key=lambda name: -calls[name])
    stop_at = time.monotonic() + budget
    for names in filter(None, (ordered[:-1], ordered[-1:])):
        left = stop_at - time.monotonic()
        try:
            run_bench(traces, names, solutions, workloads, True, tell, budget=max(left, 0.0))
        except BenchError as error:
            problems.append(str(error))
    measured = load_measurements(dataset)
    known = trust.Benchmarks(measured, current_environment())
    contents = trust.Contents.of(dataset)
    passed = {
        s.name: (s, one) for s in contents.solutions.values() if known.refusal(s) is None and (one := known.passed(s))
    }
    added = trust.add(lock, {n: s for n, (s, _) in passed.items()}, {n: one for n, (_, one) in passed.items()})
    own = {name for name, solution in contents.solutions.items() if solution.author == "engine"}
    return {
        "problems": problems,
        "trusted": [change.entry.name for change in added],
        "results": [row(one) for one in measured if one.solution not in own],
    }


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
