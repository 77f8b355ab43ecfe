"""Decode on a GPU, stock and with solutions applied: one call captures, benchmarks, trusts, and compares.

    python scripts/gpu_decode.py [--layers N] [--batches 1,16,32,64] [--rounds N] [--work DIR] [--report FILE]

Phases, each written to the report as it ends, so that a call that is cut off loses none that is done:
  capture   a traced engine decodes each batch; the linear layers' workloads are in the dataset
  compile   shipped solutions packed for what was captured, and compiled
  bench     benchmarked within --bench-budget, the passed ones trusted
  decode    a stock engine and one with apply on, side by side, decode each batch in turns
  logprobs  greedy tokens of both, and their log-probabilities beside what stock differs from itself (gpu_logprobs.py)
With --dataset the first three are left out and that dataset's measurements decide (its fib.lock: --lock). --work keeps
dataset, compiled code and kernels, so that a second call is quicker. A ratio is stock's time over apply's: more than 1
is a win. --tiny tries all of it on a CPU engine with a toy model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from gpu_engine import engine
from gpu_logprobs import judge
from gpu_prepare import bench_all, compile_all, compile_trusted

from fib_plugin.compare.ratios import ratios
from fib_plugin.compare.turns import in_turns
from fib_plugin.compare.worker import Worker, WorkerError

REPORT = Path(__file__).parents[1] / "tests" / "reports" / "vllm_gpu.json"
SAMPLED = {"temperature": 0.8, "top_p": 0.9, "top_k": 50}
#: Kernels of these overlap with each other's (see solutions/include/chain.h).
ADAPTERS = "vllm.gemm,vllm.norm,vllm.activation"
#: Decode steps of each batch while capturing: enough that these sizes are the most called ones.
STEPS = 16
#: Tokens in and out where log-probabilities are compared.
SCORED = (16, 32)


def main() -> None:
    options = arguments()
    if options.part == "compile":
        print("\n" + json.dumps(compile_all(options.dataset, options.solutions)))
        return
    if options.part == "compile trusted":
        print("\n" + json.dumps(compile_trusted(options.dataset, options.lock)))
        return
    if options.part == "bench":
        workloads = len(options.batches)
        found = bench_all(options.dataset, options.lock, options.solutions, workloads, options.bench_budget)
        print("\n" + json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = (options.work or Path(folder)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        run(options, work, Report(options.report, options))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, help="a dataset that was benchmarked on this machine")
    parser.add_argument("--lock", type=Path, help="its fib.lock; default: beside it")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--batches", type=lambda text: [int(part) for part in text.split(",")], default="1,16,32,64")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--sampling", action="store_true", help="temperature, top-k and top-p in place of greedy")
    parser.add_argument("--greedy", dest="sampling", action="store_false")
    parser.add_argument("--adapters", default=ADAPTERS, help="FIB_ADAPTERS of capture and apply")
    parser.add_argument(
        "--margin", type=float, default=-0.03, help="FIB_APPLY_MARGIN: what overlaps gains in place only"
    )
    parser.add_argument("--up-to", type=int, metavar="ROWS", help="solutions are trusted up to so many rows only")
    parser.add_argument("--solutions", nargs="*", help="names or globs of solutions to benchmark; default: all")
    parser.add_argument("--bench-budget", type=float, default=100.0, help="seconds")
    parser.add_argument("--share", type=float, default=0.35, help="of the device's memory, for each of two engines")
    parser.add_argument("--kv-gib", type=float, default=4.0, help="cache of each engine")
    parser.add_argument("--profile", action="store_true", help="the kernels of both sides, by time, after the ratios")
    parser.add_argument("--eager", action="store_true", help="no torch.compile and no CUDA graphs")
    parser.add_argument("--tiny", action="store_true", help="a toy model, also on a CPU engine")
    parser.add_argument("--work", type=Path, help="keep what is made here")
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--part", choices=("compile", "compile trusted", "bench"), help=argparse.SUPPRESS)
    return parser.parse_args()


class Report:
    """The section ``decode`` of the report file, whose other sections are kept; written whenever something is added."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        self.path = path
        self.began = time.perf_counter()
        name = "toy Llama" if options.tiny else "random-weight Llama-3.1-8B"
        self.content: dict[str, Any] = {
            "what": "ms per decode step, stock and apply in turns"
            + (", 64 tokens in, 128 out" if not options.tiny else ""),
            "model": f"{name}, {options.layers} layers",
            "mode": "eager" if options.eager else "default",
            "adapters": options.adapters,
            "margin": options.margin,
            "trusted up to rows": options.up_to,
            "sampling": SAMPLED if options.sampling else "greedy",
            "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
            "seconds": {},
        }

    def add(self, phase: str, **found: Any) -> None:
        self.content |= found
        self.content["seconds"][phase] = round(time.perf_counter() - self.began, 1)
        try:
            whole = json.loads(self.path.read_text())
        except (OSError, ValueError):
            whole = {}
        whole["decode"] = self.content
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_name(self.path.name + ".new")
        written.write_text(json.dumps(whole, indent=1) + "\n")
        written.replace(self.path)
        print(f"{phase}: done after {self.content['seconds'][phase]:.0f} s", file=sys.stderr, flush=True)


def run(options: argparse.Namespace, work: Path, report: Report) -> None:
    dataset = options.dataset or work / "dataset"
    lock = options.lock or (dataset.parent / "fib.lock" if options.dataset else work / "fib.lock")
    environment = {
        "VLLM_CACHE_ROOT": str(work / "vllm"),
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "FIB_DATASET_PATH": str(dataset),
        "FIB_CACHE_PATH": str(work / "cache"),
        "FIB_LOCK_PATH": str(lock),
        "FIB_ADAPTERS": options.adapters,
        "FIB_APPLY_MARGIN": str(options.margin),
    }
    shape = {"layers": options.layers, "share": options.share, "tiny": options.tiny, "seqs": max(options.batches)}
    if not options.tiny:
        shape["kv_gib"] = options.kv_gib
    stock = engine("stock", shape | {"eager": options.eager}, environment)
    applied: Worker | None = None
    try:
        if options.dataset is None:
            # Graphs change no size, and an engine without them is up in a fifth of the time.
            traced = engine("traced", shape | {"eager": True}, environment | {"FIB_ENABLE_TRACING": "1"})
            with traced:
                report.add("capture", captured=capture(traced, options.batches))
            # Compilers need no device: meanwhile the stock engine comes up. Where a GPU measures, it must be alone.
            report.add("compile", compile=part("compile", options, dataset, lock, environment))
            stock.ask("start")
            report.add("stock is up", **facts())
            report.add("bench", bench=part("bench", options, dataset, lock, environment))
        else:
            report.add("compile", compile=part("compile trusted", options, dataset, lock, environment))
            stock.ask("start")
            report.add("stock is up", **facts())
        switches = {"FIB_ENABLE_APPLY": "1", "FIB_LOCK_PATH": str(limited(lock, options.up_to, work))}
        applied = engine("apply", shape | {"eager": options.eager}, environment | switches)
        applied.ask("start")
        report.add("apply is up", placed_at_start=applied.ask("placed"))
        compare(options, stock, applied, report)
    except WorkerError as error:
        report.add("failed", failure=str(error))
        raise SystemExit(str(error)) from None
    finally:
        stock.close()
        if applied is not None:
            applied.close()
    print(json.dumps(report.content))


def limited(lock: Path, rows: int | None, work: Path) -> Path:
    """A fib.lock that trusts the same up to so many rows."""
    if rows is None:
        return lock
    from msgspec.structs import replace

    from fib_plugin.dispatch.lock_file import LockFile, editing

    path = work / "limited.lock"
    with editing(path) as mine:
        most = {"M": rows, "batch_size": rows}
        mine.solutions = [replace(entry, up_to=most) for entry in LockFile.read(lock).solutions]
    return path


def capture(traced: Worker, batches: list[int]) -> dict[str, Any]:
    traced.ask("start")
    for batch in batches:
        traced.ask("greedy", batch, 1, STEPS)
    found = traced.ask("status")["capture"]
    return {key: found[key] for key in ("seen", "written", "bytes", "dropped", "errors")}


def part(
    name: str, options: argparse.Namespace, dataset: Path, lock: Path, environment: dict[str, str]
) -> dict[str, Any]:
    """In a process of its own, whose device memory is free again when it ends."""
    command = [sys.executable, __file__, "--part", name, "--dataset", str(dataset), "--lock", str(lock)]
    command += ["--batches", ",".join(map(str, options.batches)), "--bench-budget", str(options.bench_budget)]
    command += ["--solutions", *options.solutions] if options.solutions else []
    done = subprocess.run(
        command, env={**os.environ, **environment, "FIB_DISABLE": "1"}, stdout=subprocess.PIPE, text=True
    )
    lines = done.stdout.splitlines()
    return (
        json.loads(lines[-1])
        if done.returncode == 0 and lines
        else {"failure": f"code {done.returncode}", "said": lines[-5:]}
    )


def compare(options: argparse.Namespace, stock: Worker, applied: Worker, report: Report) -> None:
    tokens, length = (16, 32) if options.tiny else (64, 128)
    sampling = SAMPLED if options.sampling else {"temperature": 0.0}
    found: dict[str, Any] = {}
    for batch in options.batches:
        asked = ("decode", batch, tokens, length, sampling)
        sides = {"stock": partial(stock.ask, *asked), "apply": partial(applied.ask, *asked)}
        steps = in_turns(sides, options.rounds)
        one = ratios(steps["stock"], steps["apply"])
        found[str(batch)] = {
            "ms_step_stock": round(one.off, 4),
            "ms_step_apply": round(one.on, 4),
            **{key: value for key, value in one.to_dict().items() if key not in ("off", "on")},
        }
        report.add(f"decode at {batch}", decode_ratio={b: r["ratio"] for b, r in found.items()}, batches=found)
    if options.profile:
        profiles: dict[str, Any] = {}
        for batch in options.batches:
            profiles[str(batch)] = {"stock": stock.ask("profile", batch), "apply": applied.ask("profile", batch)}
            report.add(f"profile at {batch}", profiles=profiles)
    if not options.tiny:
        # After the times: weights that tell tokens apart. A CPU engine has packed its own away.
        report.add("weights", weights=[worker.ask("redraw") for worker in (stock, applied)])
    agreement: dict[str, Any] = {}
    for batch in options.batches:
        agreement[str(batch)] = agree(stock, applied, batch, max(options.batches))
        report.add(f"logprobs at {batch}", logprobs=agreement)
    status = applied.ask("status")
    ops = {name: {**line, "definitions": None} for name, line in status["ops"].items()}
    report.add(
        "status",
        ops={name: {key: value for key, value in line.items() if value is not None} for name, line in ops.items()},
        placed=applied.ask("placed"),
        quarantined=status["quarantined"],
        notes=status["notes"],
        versions=status["engine"] | report.content.get("versions", {}),
    )


def agree(stock: Worker, applied: Worker, batch: int, most: int) -> dict[str, Any]:
    """See gpu_logprobs.judge; at most ``most`` requests run at once."""
    first, ours = (worker.ask("scored", batch, *SCORED, batch) for worker in (stock, applied))
    others = {max(1, batch // 2), min(batch + 1, most)} - {batch} or {batch}
    return judge(first, [stock.ask("scored", batch, *SCORED, together) for together in sorted(others)], ours)


def facts() -> dict[str, Any]:
    """Device and versions; asked when the engines are up, so that no import delays them."""
    import torch

    from fib_plugin.dataset import current_environment

    environment = current_environment()
    return {"device": environment.hardware, "versions": environment.libs | {"torch": torch.__version__}}


if __name__ == "__main__":
    main()
