"""What dispatch costs on top of a kernel's own call, in one process and side by side with other libraries.

    python scripts/bench_dispatch.py [--rounds N] [--flashinfer-bench FOLDER] [--flashinfer FOLDER]

The kernel does nothing, so what is left is dispatch. Every number is the median over rounds in which the contestants
take turns. Other libraries are measured where they can be imported, or from folders their wheels were unpacked into;
otherwise their keys are null. The last line of output is one JSON object, in nanoseconds: hit, miss and disabled of a
site that is resolved, as inside a layer; adapter_* with finding the site of a weight; apply of the public function.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

N, K, M = 64, 64, 4
#: Ops in the compiled graph.
OPS = 32
ENTRY = "import torch\n\n_out = torch.zeros(1)\n\n\ndef run(A, B):\n    return _out\n"
Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--flashinfer-bench", type=Path, help="folder that holds the package flashinfer_bench")
    parser.add_argument("--flashinfer", type=Path, help="folder that holds the package flashinfer")
    options = parser.parse_args()
    for folder in (options.flashinfer_bench, options.flashinfer):
        if folder is not None:
            sys.path.append(str(folder))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in [name for name in os.environ if name.startswith("FIB_")]:
            del os.environ[name]
        os.environ["FIB_CACHE_PATH"] = str(root / "cache")
        os.environ["FIB_DATASET_PATH"] = str(root / "dataset")
        os.environ["FIB_LOCK_PATH"] = str(root / "fib.lock")
        print(json.dumps(measure(root, options.rounds)))


def measure(root: Path, rounds: int) -> dict[str, Any]:
    import torch
    from fib_plugin.adapters.live.gemm import LiveGemm

    from fib_plugin import settings
    from fib_plugin.runtime import Runtime

    x, unmeasured, weight = torch.zeros(M, K), torch.zeros(64 * M, K), torch.zeros(N, K)
    definition, solution = prove(root / "dataset", root / "fib.lock")
    # The kernel is the same for all: probation would reject it, since it computes nothing.
    runtime = Runtime(settings.load().model_copy(update={"probation": False}), apply=True, tracing=False)
    off = Runtime(settings.load().model_copy(update={"dataset_path": root / "empty"}), apply=False, tracing=False)
    live, disabled = LiveGemm(runtime, "bench.gemm"), LiveGemm(off, "bench.gemm")
    from fib_plugin.build import build

    kernel = build(solution, definition, root / "cache").call
    assert live.attempt(x, weight) is kernel(x, weight), "the hit is no hit"
    assert live.attempt(unmeasured, weight) is None, "the miss is no miss"
    assert disabled.attempt(x, weight) is None
    site, idle = runtime.sites[0], off.sites[0]

    calls: dict[str, Call] = {
        "empty": lambda: None,
        "direct": lambda: kernel(x, weight),
        "hit": lambda: site.attempt(x.shape[0], (x, weight)),
        "miss": lambda: site.attempt(unmeasured.shape[0], (unmeasured, weight)),
        "disabled": lambda: idle.attempt(x.shape[0], (x, weight)),
        "adapter_hit": lambda: live.attempt(x, weight),
        "adapter_miss": lambda: live.attempt(unmeasured, weight),
    }
    groups = [calls, opaque_calls(x, weight, live)]
    groups.append(apply_calls(x, weight, definition.name))
    for extra in (flashinfer_bench_calls, flashinfer_calls):
        groups.append(extra(root, x, weight, definition.name))
    for group in groups[1:]:
        calls.update(group)
    took = interleaved(calls, rounds)
    runtime.close()
    off.close()
    return report(took)


def report(took: dict[str, float]) -> dict[str, Any]:
    def added(name: str, base: str = "direct") -> float | None:
        return round(took[name] - took[base], 1) if name in took and base in took else None

    other, hit = added("flashinfer_bench"), added("hit")
    return {
        "direct_ns": round(took["direct"], 1),
        "hit_added_ns": hit,
        "miss_added_ns": round(took["miss"] - took["empty"], 1),
        "disabled_added_ns": round(took["disabled"] - took["empty"], 1),
        "adapter_hit_added_ns": added("adapter_hit"),
        "adapter_miss_added_ns": round(took["adapter_miss"] - took["empty"], 1),
        "apply_added_ns": added("apply"),
        "apply_miss_added_ns": added("apply_miss"),
        "opaque_added_ns": round((took["opaque_graph"] - took["opaque_inline"]) / OPS, 1),
        "flashinfer_bench_added_ns": other,
        "flashinfer_trace_apply_added_ns": added("flashinfer_trace_apply"),
        "ratio": None if other is None or not hit else round(other / hit, 1),
    }


def prove(dataset: Path, lock: Path) -> tuple[Any, Any]:
    """A dataset with one gemm and one solution that is faster at M, as `fib bench` and `fib trust add` leave it."""
    from fib_plugin import ops
    from fib_plugin.dataset import Measurement, TraceSet, append_measurements, current_environment
    from fib_plugin.dispatch.trust import add
    from fib_plugin.schema import (
        BuildSpec,
        Correctness,
        Evaluation,
        EvaluationStatus,
        Language,
        Performance,
        Solution,
        SourceFile,
        Trace,
        Workload,
        content_hash,
    )

    definition = ops.ALL["gemm"].definition(n=N, k=K, dtype="float32")
    spec = BuildSpec(
        language=Language.PYTHON,
        target_hardware=["cpu"],
        entry_point="main.py::run",
        destination_passing_style=False,
        dependencies=[],
    )
    sources = [SourceFile(path="main.py", content=ENTRY)]
    solution = Solution(name="nothing", definition=definition.name, author="bench", spec=spec, sources=sources)
    here = current_environment()
    inputs = {name: {"type": "random"} for name in definition.inputs}
    workload = Workload.model_validate({"axes": {"M": M}, "inputs": inputs, "uuid": "w"})
    evaluation = Evaluation(
        status=EvaluationStatus.PASSED,
        environment=here,
        timestamp="2026-01-01T00:00:00+00:00",
        correctness=Correctness(max_relative_error=1e-9, max_absolute_error=1e-9),
        performance=Performance(latency_ms=1.0, reference_latency_ms=2.0, speedup_factor=2.0),
    )
    traces = TraceSet(dataset)
    traces.add_definition(definition)
    traces.add_solution(solution)
    traces.add_workloads([Trace(definition=definition.name, workload=workload)])
    traces.add_traces(
        [Trace(definition=definition.name, workload=workload, solution=solution.name, evaluation=evaluation)]
    )
    measurement = Measurement(
        run="bench",
        definition=definition.name,
        axes={"M": M},
        workload="w",
        solution=solution.name,
        solution_hash=content_hash(solution),
        baseline="engine",
        status="PASSED",
        hardware=here.hardware,
        libs=here.libs,
        timestamp="2026-01-01T00:00:00+00:00",
        solution_ms=1.0,
        baseline_ms=2.0,
        ratio=2.0,
        ratio_low=1.9,
    )
    append_measurements(dataset, definition.op_type, [measurement])
    add(lock, {solution.name: solution}, {solution.name: measurement})
    return definition, solution


def opaque_calls(x: Any, weight: Any, live: Any) -> dict[str, Call]:
    """A compiled graph that holds our op many times, and one that holds a view in its place, its bodies run beside it.

    Both include what it takes to enter a compiled function, so that the difference is the ops'.
    """
    import torch

    from fib_plugin.dispatch.opaque import opaque

    nothing = torch.zeros(1)

    def body(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        live.attempt(x, weight)
        return torch.empty_like(nothing)

    op = opaque("bench_gemm(Tensor x, Tensor weight) -> Tensor", body, lambda x, weight: x.new_empty(1))

    @torch.compile(fullgraph=True)
    def with_ops(x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
        return [op.call(x, weight) for _ in range(OPS)]

    @torch.compile(fullgraph=True)
    def without(x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
        return [x]

    def inline() -> None:
        without(x, weight)
        for _ in range(OPS):
            body(x, weight)

    with torch.inference_mode():
        with_ops(x, weight), without(x, weight)
    return {
        "opaque_graph": torch.inference_mode()(lambda: with_ops(x, weight)),
        "opaque_inline": torch.inference_mode()(inline),
    }


def apply_calls(x: Any, weight: Any, name: str) -> dict[str, Call]:
    import torch

    from fib_plugin import apply, enable_apply

    os.environ["FIB_PROBATION"] = "0"
    enable_apply()
    args, missed = (x, weight), (torch.zeros(64 * M, K), weight)
    nothing = torch.zeros(1)

    def fallback(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        return nothing

    assert apply(name, args, None, fallback) is not nothing, "apply() substituted nothing"
    assert apply(name, missed, None, fallback) is nothing
    return {
        "apply": lambda: apply(name, args, None, fallback),
        "apply_miss": lambda: apply(name, missed, None, fallback),
    }


def flashinfer_bench_calls(root: Path, x: Any, weight: Any, name: str) -> dict[str, Call]:
    """apply() of the flashinfer-bench package on the same dataset."""
    try:
        if importlib.util.find_spec("flashinfer") is None:
            # Its own adapters patch FlashInfer where it is there; nothing here needs it.
            sys.modules.setdefault("flashinfer", types.ModuleType("flashinfer"))
        package = importlib.import_module("flashinfer_bench")
        config = package.ApplyConfigRegistry(default=package.ApplyConfig(max_atol=1.0, max_rtol=1.0))
        package.enable_apply(str(root / "dataset"), config)
    except Exception as error:
        print(f"flashinfer_bench is left out: {error!r}", file=sys.stderr)
        return {}
    args = (x, weight)

    def fallback(A: Any, B: Any) -> None:
        raise AssertionError("flashinfer_bench substituted nothing")

    package.apply(name, args=args, fallback=fallback)
    return {"flashinfer_bench": lambda: package.apply(name, args=args, fallback=fallback)}


def flashinfer_calls(root: Path, x: Any, weight: Any, name: str) -> dict[str, Call]:
    """flashinfer.trace_apply, which patches FlashInfer's own functions: rmsnorm with a kernel that does nothing."""
    import torch

    try:
        norm = importlib.import_module("flashinfer.norm")
        trace_apply = importlib.import_module("flashinfer.trace_apply")
        if torch.version.cuda is None:
            # It asks at the first call of a shape, which torch without CUDA cannot answer.
            torch.cuda.is_current_stream_capturing = lambda: False
        row = weight[0].contiguous()
        trace_apply.enable_apply({f"rmsnorm_h{K}": lambda **inputs: x})
        assert norm.rmsnorm(x, row) is x, "it substituted nothing"
    except Exception as error:
        print(f"flashinfer.trace_apply is left out: {error!r}", file=sys.stderr)
        return {}
    return {"flashinfer_trace_apply": lambda: norm.rmsnorm(x, row)}


def interleaved(calls: dict[str, Call], rounds: int, sample_ns: float = 3e6) -> dict[str, float]:
    """Nanoseconds a call: the median over rounds in which every contestant has its turn."""
    counts = {}
    for name, call in calls.items():
        start = time.perf_counter_ns()
        for _ in range(200):
            call()
        counts[name] = max(50, int(200 * sample_ns / (time.perf_counter_ns() - start)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            count = range(counts[name])
            start = time.perf_counter_ns()
            for _ in count:
                call()
            found[name].append((time.perf_counter_ns() - start) / counts[name])
    return {name: statistics.median(values) for name, values in found.items()}


if __name__ == "__main__":
    main()
