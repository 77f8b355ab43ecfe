"""Evaluations per minute of `fib bench`, of a bare loop, and of flashinfer-bench's runner, on one set and in one run.

    python scripts/bench_runner.py [--definitions 3] [--workloads 4] [--solutions 6] [--rounds 3] [--threads 1]
                                   [--flashinfer-bench FOLDER]

Makes a dataset (gemm, RMSNorm and SiLU definitions, solutions that are all right and differ in a comment; the first of
each is the engine's, so that ours times it beside every other), and runs it in fresh processes, the runners in turn;
medians over the rounds, starting a process and importing included. The last line is one JSON object:

    fib_bench                  isolated, judged, timed beside the displaced op, each result written at once
    bare_loop                  no isolation: inputs, reference, build, one comparison, 10 + 50 calls in one process
    flashinfer_bench           its Benchmark.run_all with its defaults, or null and in flashinfer_bench_why the reason
    over_bare, over_flashinfer_bench   fib_bench by the others, each round for itself

Their runner knows CUDA devices only: on a GPU host it runs where it can be imported, or from an unpacked wheel.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WARM_UP, _CALLS = 10, 50
_OURS, _BARE, _THEIRS = "fib_bench", "bare_loop", "flashinfer_bench"
_FAMILIES = ("gemm", "rmsnorm", "silu_and_mul")


def make(root: Path, definitions: int, workloads: int, solutions: int) -> int:
    """Write the dataset; the number of evaluations it stands for."""
    from fib_plugin import ops
    from fib_plugin.dataset import TraceSet
    from fib_plugin.schema import BuildSpec, Language, RandomInput, Solution, SourceFile, Trace, Workload

    traces = TraceSet(root)
    for number in range(definitions):
        family = _FAMILIES[number % len(_FAMILIES)]
        width = 256 * (1 + number // len(_FAMILIES))
        constants: dict[str, dict[str, Any]] = {
            "gemm": {"n": width, "k": 512},
            "rmsnorm": {"hidden_size": width, "eps": 1e-5},
            "silu_and_mul": {"d": width},
        }
        definition = ops.ALL[family].definition(dtype="float32", **constants[family])
        traces.add_definition(definition)
        for index in range(solutions):
            author = "engine" if index == 0 else "someone"
            spec = BuildSpec(
                language=Language.PYTHON,
                target_hardware=["cpu", "cuda"],
                entry_point="main.py::run",
                dependencies=["torch"],
                destination_passing_style=False,
            )
            source = SourceFile(path="main.py", content=f"{definition.reference}\n# {index}\n")
            name = f"{author}_{index}__{definition.name}"
            made = Solution(name=name, definition=definition.name, author=author, spec=spec, sources=[source])
            traces.add_solution(made)
        axis, random = definition.var_axes[0], RandomInput()
        inputs: Any = dict.fromkeys(definition.inputs, random)
        loads = [Workload(axes={axis: 4**index}, inputs=inputs, uuid=f"{number}-{index}") for index in range(workloads)]
        traces.add_workloads([Trace(definition=definition.name, workload=load) for load in loads])
    return definitions * workloads * solutions


def fib_bench(root: Path, threads: int, cache: Path) -> dict[str, int]:
    """Ours, results written as they arrive."""
    from fib_plugin.bench import run_bench
    from fib_plugin.dataset import TraceSet

    found = run_bench(TraceSet.from_path(root), threads=threads, cache=cache)
    return Counter(result.status.value for result in found)


def bare_loop(root: Path, threads: int, cache: Path) -> dict[str, int]:
    """What one would write down in an afternoon: everything in this process, trusting everyone."""
    import torch

    from fib_plugin import judge, ops
    from fib_plugin.bench.inputs import InputMaker, fresh_seed
    from fib_plugin.build import build
    from fib_plugin.dataset import TraceSet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(threads)
    traces, maker, statuses = TraceSet.from_path(root), InputMaker(root, fresh_seed()), Counter[str]()
    for definition in traces.definitions.values():
        scope: dict[str, Any] = {}
        exec(definition.reference, scope)
        tolerance = ops.evaluation_config(definition, root).tolerance
        for line in traces.workloads[definition.name]:
            made = maker.make(definition, line.workload, fresh_seed())
            inputs = [value.to(device) if isinstance(value, torch.Tensor) else value for value in made]
            expected = _listed(scope["run"](*inputs))
            _time(lambda run=scope["run"], inputs=inputs: run(*inputs), device)  # type: ignore[misc]
            for solution in traces.solutions[definition.name]:
                call = build(solution, definition, cache).call
                verdict = judge.outputs(definition, _listed(call(*inputs)), expected, tolerance)
                _time(lambda call=call, inputs=inputs: call(*inputs), device)  # type: ignore[misc]
                statuses[verdict.status.value] += 1
    return statuses


def _listed(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def _time(call: Callable[[], Any], device: str) -> float:
    import torch

    best = math.inf
    for index in range(_WARM_UP + _CALLS):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start) if index >= _WARM_UP else best
    return best


def flashinfer_bench(root: Path, threads: int, cache: Path) -> dict[str, int]:
    """Theirs, with its defaults."""
    os.environ.setdefault("FIB_CACHE_PATH", str(cache))
    from flashinfer_bench import Benchmark, BenchmarkConfig, TraceSet

    benchmark = Benchmark(TraceSet.from_path(str(root)), BenchmarkConfig())
    try:
        found = benchmark.run_all(dump_traces=True)
    finally:
        benchmark.close()
    return Counter(trace.evaluation.status.value for group in found.traces.values() for trace in group)


_RUNNERS: dict[str, Callable[[Path, int, Path], dict[str, int]]] = {
    _OURS: fib_bench,
    _BARE: bare_loop,
    _THEIRS: flashinfer_bench,
}


def timed(name: str, source: Path, evaluations: int, threads: int, theirs: Path | None) -> dict[str, Any]:
    """One runner in a fresh process on a fresh copy of the dataset: seconds and statuses, or why it failed."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        root = Path(folder) / "dataset"
        shutil.copytree(source, root)
        path = [str(theirs)] if theirs is not None and name == _THEIRS else []
        path += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
        command = [sys.executable, __file__, "--run", name, str(root), str(threads), str(Path(folder) / "cache")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)} if path else dict(os.environ)
        start = time.perf_counter()
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        seconds = time.perf_counter() - start
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"why": lines[-1] if lines else f"it ended with {done.returncode}"}
    statuses: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    if sum(statuses.values()) != evaluations or set(statuses) != {"PASSED"}:
        return {"why": f"{evaluations} evaluations were to pass, it says {statuses}"}
    return {"seconds": seconds, "per_minute": evaluations / seconds * 60}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--definitions", type=int, default=3)
    parser.add_argument("--workloads", type=int, default=4, help="each")
    parser.add_argument("--solutions", type=int, default=6, help="each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--flashinfer-bench", type=Path, default=None, help="folder of the unpacked wheel")
    arguments = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in _RUNNERS}
    with tempfile.TemporaryDirectory(prefix="fib-runner-") as folder:
        source = Path(folder) / "made"
        evaluations = make(source, arguments.definitions, arguments.workloads, arguments.solutions)
        print(f"{evaluations} evaluations a run", flush=True)
        for number in range(arguments.rounds):
            for name, found in runs.items():
                if found and "why" in found[-1]:
                    continue  # it will not do better the next time
                found.append(timed(name, source, evaluations, arguments.threads, arguments.flashinfer_bench))
                told = found[-1].get("why") or f"{found[-1]['seconds']:.1f} s, {found[-1]['per_minute']:.0f} a minute"
                print(f"round {number + 1} of {arguments.rounds}: {name}: {told}", flush=True)
    for name in (_OURS, _BARE):
        if "why" in runs[name][-1]:
            raise SystemExit(f"{name}: {runs[name][-1]['why']}")
    print(json.dumps(summary(runs, evaluations, arguments)))


def summary(runs: dict[str, list[dict[str, Any]]], evaluations: int, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from fib_plugin.dataset import current_environment

    ours, why = runs[_OURS], runs[_THEIRS][-1].get("why")
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "hardware": current_environment().hardware,
        "devices": devices or 1,
        "evaluations": evaluations,
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        **{name: None if "why" in found[-1] else _middle(found) for name, found in runs.items()},
        "flashinfer_bench_why": why,
        "over_bare": _ratio(ours, runs[_BARE]),
        "over_flashinfer_bench": None if why else _ratio(ours, runs[_THEIRS]),
    }


def _middle(found: list[dict[str, Any]]) -> float:
    return float(round(statistics.median(run["per_minute"] for run in found), 1))


def _ratio(ours: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """Neighbours in time: what else the machine does lasts for a round rather than for a runner."""
    pairs = zip(ours, others, strict=True)
    return float(round(statistics.median(own["per_minute"] / other["per_minute"] for own, other in pairs), 3))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        name, root, threads, cache = sys.argv[2:]
        print(json.dumps(_RUNNERS[name](Path(root), int(threads), Path(cache))))
    else:
        main()
