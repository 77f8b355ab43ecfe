"""Finds the best plans of gemm_decode_cuda on this GPU, for the decode products of Llama-3.1-8B, in a few minutes.

    python scripts/gpu_tune.py [--ops qkv,o,...] [--rows 1,2,4,...] [--budget SECONDS] [--report FILE] [--no-header]

Compiles every plan of tune_plans.py and runs each once in another process, so that one that hangs or faults costs
seconds and is left out. Then checks each against float32 at each shape it is timed at, and times it in a CUDA graph
over the weights of several layers, so that none is in the cache, beside cuBLAS (torch.mm), which takes turns with the
best plans at the end. Before each product runs a small kernel that writes A, as in a model: where a norm or a gate of
ours comes before it the shipped silu_and_mul_cuda, with which our product overlaps, else one of torch, with which it
cannot. The best plans are timed after both.

Writes microseconds (small kernel and product) to the report, beside those of other devices, and the table that the
kernel is compiled with, solutions/gemm/gemm_decode_cuda/tuned.h. The report is rewritten as each product is done; what
--budget leaves no time for keeps the default plan. Run the tests afterwards: bash scripts/gpu_check.sh
tests/solutions/test_cuda_kernels.py tests/solutions/test_gemm_plans.py.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import tune_plans
import tune_trial

from fib_plugin import ops
from fib_plugin.build import BuildError, build, precompile
from fib_plugin.pack import find_sources

#: Op -> N, K, and whether a kernel of ours runs before it in an engine with our kernels.
SHAPES = {
    "o": (4096, 4096, False),
    "qkv": (6144, 4096, True),
    "down": (4096, 14336, True),
    "gate_up": (28672, 4096, True),
    "lm_head": (128256, 4096, False),
}
ROWS = (1, 2, 4, 8, 16, 24, 32, 64)
#: Weights in turns must together be several times what the second-level cache holds.
COLD_BYTES = 600 * 2**20
FINALISTS = 4
Call = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", type=lambda text: text.split(","), default=list(SHAPES))
    parser.add_argument("--rows", type=lambda text: [int(part) for part in text.split(",")], default=list(ROWS))
    parser.add_argument("--budget", type=float, default=240.0, help="seconds, compiling included")
    parser.add_argument("--report", type=Path, default=tune_plans.REPORT)
    parser.add_argument("--cache", type=Path, help="keeps what is compiled")
    parser.add_argument("--no-header", dest="header", action="store_false", help="leave tuned.h as it is")
    parser.add_argument("--trial", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0):
        raise SystemExit("needs a CUDA device of compute capability 9.0 or more")
    if options.trial:
        run_once(options.trial, options.cache)
        return
    stop_at = time.monotonic() + options.budget
    plans = sorted({plan for m in options.rows for plan in tune_plans.plans_for(m)})
    problems = compile_all(plans, options.cache)
    tried = [plan for plan in plans if plan not in problems]
    problems |= tune_trial.trial(tried, lambda left: trial_command(left, options.cache))
    calls = {plan: load(plan, options.cache) for plan in plans if plan not in problems}
    found = Found(options.report, problems, options.header)
    for name in options.ops:
        tune(name, options.rows, calls, found, stop_at)
        found.write()
    print(json.dumps({"table": found.device["table"], "problems": found.device["problems"]}, indent=1))


def compile_all(plans: list[str], cache: Path | None) -> dict[str, str]:
    """Compiles on all cores; plan -> what its compiler said, for those that it refused."""
    problems: dict[str, str] = {}

    def compile_one(plan: str) -> None:
        try:
            precompile(tune_plans.solution_of(plan)[0], cache, retry=True)
        except BuildError as error:
            problems[plan] = str(error)[:300]

    began = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, plans))
    print(f"{len(plans)} plans compiled in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return problems


_loaded: list[Any] = []  # what is built lives as long as it is called


def load(plan: str, cache: Path | None) -> Call:
    runnable = build(*tune_plans.solution_of(plan), cache)
    _loaded.append(runnable)
    return runnable.into


def trial_command(plans: list[str], cache: Path | None) -> list[str]:
    where = ["--cache", str(cache)] if cache else []
    return [sys.executable, str(Path(__file__).resolve()), "--trial", json.dumps(plans), *where]


def run_once(plans: list[str], cache: Path | None) -> None:
    """The other process: a line for each plan, as soon as it ran."""
    weight = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16) / 64
    benches = {rows: Bench([weight], rows) for rows in tune_plans.PLANS}
    print("ready", flush=True)
    for plan in plans:
        rows = next(rows for rows, some in tune_plans.PLANS.items() if plan in some)
        try:
            problem = benches[rows].problem(load(plan, cache))
        except RuntimeError as error:
            print(json.dumps({plan: str(error)[-200:]}), flush=True)
            raise SystemExit(tune_trial.FAULTED) from None
        # What is refused at this shape may do for others.
        print(json.dumps({plan: problem if problem != REFUSED else None}), flush=True)


class Found:
    """This device's part of the report; other devices' stay, as does what is not measured again of this one's."""

    def __init__(self, file: Path, problems: dict[str, str], header: bool) -> None:
        self.file = file
        self.header = header
        name = torch.cuda.get_device_name()
        facts = torch.cuda.get_device_properties(0)
        self.whole: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        self.whole["what"] = __doc__.splitlines()[0]
        self.device: dict[str, Any] = {
            "major": facts.major,
            "minor": facts.minor,
            "gigabytes_per_second": memory_rate(),
            "date": datetime.now(timezone.utc).date().isoformat(),
            "versions": {"torch": torch.__version__, "cuda": torch.version.cuda},
            "problems": problems,
            "products": self.whole.get("devices", {}).get(name, {}).get("products", []),
            "table": [],
        }
        self.whole.setdefault("devices", {})[name] = self.device

    def add(self, line: dict[str, Any]) -> None:
        others = [one for one in self.device["products"] if (one["op"], one["M"]) != (line["op"], line["M"])]
        self.device["products"] = [*others, line]

    def write(self) -> None:
        times = {str(i): one["plans_us"] for i, one in enumerate(self.device["products"])}
        chosen = tune_plans.settle(times)
        self.device["table"] = [
            {"N": one["N"], "K": one["K"], "most_M": one["M"], "plan": chosen[str(i)]}
            for i, one in enumerate(self.device["products"])
            if str(i) in chosen
        ]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.whole, indent=1) + "\n")
        if self.header:
            (tune_plans.SOURCE / "tuned.h").write_text(tune_plans.header(self.whole))


def memory_rate() -> int:
    """GB/s by the memory's clock and width, worked out as choose.h does."""
    from ctypes import CDLL, byref, c_int

    driver, value, rates = CDLL("libcuda.so.1"), c_int(), []
    for attribute in (36, 37):  # CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE in kHz, ..._GLOBAL_MEMORY_BUS_WIDTH in bits
        if driver.cuDeviceGetAttribute(byref(value), attribute, torch.cuda.current_device()):
            return 0
        rates.append(value.value)
    return rates[0] * 2 * rates[1] // 8 // 1_000_000


def tune(name: str, rows: list[int], calls: Mapping[str, Call], found: Found, stop_at: float) -> None:
    n, k, after_ours = SHAPES[name]
    layers = max(2, -(-COLD_BYTES // (2 * n * k)))
    weights = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * k**-0.5 for _ in range(layers)]
    for m in rows:
        if time.monotonic() > stop_at:
            print(f"no time left for {name} at {m} rows", file=sys.stderr)
            return
        bench = Bench(weights, m)
        problems, plans = {}, {}
        for plan in tune_plans.plans_for(m):
            if plan not in calls:
                continue
            problem = bench.problem(calls[plan])
            if problem:
                problems[plan] = problem
            else:
                plans[plan] = bench.graph(calls[plan], after_ours)
        coarse = in_turns(plans, 5)
        best = sorted(coarse, key=lambda plan: coarse[plan])[:FINALISTS]
        graphs = {plan: plans[plan] for plan in best} | {"cuBLAS": bench.graph(linear, after_ours)}
        other = {plan: bench.graph(calls[plan], not after_ours) for plan in best}
        fine = in_turns(graphs | {f"{plan} (other)": graph for plan, graph in other.items()}, 15)
        each = {key: round(us / layers, 2) for key, us in fine.items()}
        stock = each.pop("cuBLAS")
        final = {plan: each[plan] for plan in best}
        line = {
            "op": name,
            "N": n,
            "K": k,
            "M": m,
            "after": "silu_and_mul_cuda" if after_ours else "a kernel of torch",
            "cuBLAS_us": stock,
            "best_us": min(final.values(), default=None),
            "ratio": round(stock / min(final.values()), 3) if final else None,
            "plans_us": final,
            "after_the_other_us": {plan: each[f"{plan} (other)"] for plan in best},
            "coarse_us": {plan: round(us / layers, 2) for plan, us in coarse.items()},
            "refused_or_wrong": problems,
        }
        found.add(line)
        print(json.dumps({key: line[key] for key in ("op", "M", "cuBLAS_us", "ratio", "plans_us")}), flush=True)


REFUSED = "refused: its rows of A or its queue do not fit"


def linear(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
    torch.mm(a, b.T, out=c)


class Bench:
    """Products of ``m`` rows with each of the weights in turn."""

    def __init__(self, weights: list[torch.Tensor], m: int) -> None:
        n, k = weights[0].shape
        self.weights = weights
        self.gates, self.given, self.a, self.c = (
            torch.randn(m, size, device=weights[0].device, dtype=weights[0].dtype) for size in (2 * k, k, k, n)
        )
        self.want = self.given.float() @ weights[0].float().T

    def problem(self, call: Call) -> str | None:
        """What is wrong with a plan for this shape, or None."""
        self.c.fill_(float("nan"))
        self.a.copy_(self.given)  # the kernel before a product, in a graph of an earlier plan, has written another
        try:
            call(self.a, self.weights[0], self.c)
            if self.c.is_cuda:
                torch.cuda.synchronize()
        except RuntimeError as error:
            if "could not be launched" not in str(error):
                raise
            return REFUSED
        off = ((self.c.float() - self.want).norm() / self.want.norm()).item()
        return None if off < 3e-3 else f"wrong: off by {off:.2g}"

    def graph(self, call: Call, after_ours: bool) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        self._run(call, after_ours)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            self._run(call, after_ours)
        graph.replay()
        return graph

    def _run(self, call: Call, after_ours: bool) -> None:
        for weight in self.weights:
            if after_ours:
                gate()(self.gates, self.a)
            else:
                torch.add(self.gates[:, : self.a.shape[1]], 1.0, out=self.a)
            call(self.a, weight, self.c)


@functools.cache
def gate() -> Callable[[torch.Tensor, torch.Tensor], Any]:
    (source,) = find_sources([tune_plans.ROOT / "solutions" / "activation" / "silu_and_mul_cuda"])
    definition = ops.ALL["silu_and_mul"].definition(d=14336)
    runnable = build(source.solution_for(definition, "silu_and_mul"), definition)
    _loaded.append(runnable)
    return runnable.into


def in_turns(graphs: Mapping[str, torch.cuda.CUDAGraph], rounds: int) -> dict[str, float]:
    """Name -> median microseconds of a replay; the graphs take turns, so that a drift of the clocks meets all."""
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


if __name__ == "__main__":
    main()
