"""SGLang on a GPU with CUDA graphs on: does every op run what was proven, are the counts right, what is it worth.

    python scripts/gpu_sglang.py [--sections capture,marks,moe,fp8,ratio] [--dataset DIR --lock FILE] [--report FILE]

Sections, each written to the report as it ends; one that fails says why and stops no other:
  capture   a traced engine with graphs and one without count the same generation; what was harvested
  marks     every op's solution is marked while its graphs are replayed: tokens change, and come back without the mark
  moe       the same for routed experts, in a small mixture of experts
  fp8       the same for linear layers and experts with fp8 weights, by tensors and by blocks
  ratio     with --dataset (benchmarked on this machine, with its fib.lock): ms per decode step of a random-weight
            Llama-3.1-8B, stock and with its solutions, in turns; a ratio is stock's time over apply's
The models of the first three are made here, of a few layers and with wide random weights, so that a changed op changes
tokens. Engines that do not wait for each other start together: the first start compiles kernels for minutes.
--tiny tries all of it on a CPU engine (no graphs there).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from gpu_marks import MOST_ROWS, prove
from gpu_prepare import compile_trusted
from gpu_sglang_engine import STAND_INS, engine
from make_model import VOCABULARY, make

from fib_plugin.compare.ratios import ratios
from fib_plugin.compare.turns import in_turns
from fib_plugin.compare.worker import Worker

REPORT = Path(__file__).parents[1] / "tests" / "reports" / "sglang_gpu.json"
BATCH, TOKENS, LENGTH = 4, 16, 16
COUNTED = (1, 4)
#: One request leaves a choice, since SGLang takes the likeliest token itself where all ask for it.
SAMPLED = {
    "top_k_sampling": [{"temperature": 0.8, "top_k": k} for k in (1, 1, 1, 2)],
    "top_p_sampling": [{"temperature": 0.8, "top_p": 1e-6}] * 4,
    "top_k_top_p_sampling": [{"temperature": 0.8, "top_k": k, "top_p": 0.5} for k in (1, 1, 1, 2)],
}
TRACING = {"FIB_ENABLE_TRACING": "1"}
#: Requests of those whose tokens are certain.
CERTAIN = 3
#: Models with fp8 weights, and the families that serve them.
FP8 = {
    "llama_fp8": ("gemm_fp8_rowwise",),
    "llama_fp8_block": ("gemm_fp8_block_scale",),
    "qwen3_moe_fp8_block": ("gemm_fp8_block_scale", "moe_fp8_block_scale"),
}
DENSE = ("gemm", "rmsnorm", "fused_add_rmsnorm", "silu_and_mul", "rope", "gqa_paged_decode", "gqa_paged_prefill")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", default="capture,marks,moe,fp8,ratio", help="fp8: all of 'fp8 MODEL'")
    parser.add_argument("--dataset", type=Path, help="for the ratio: a dataset that was benchmarked on this machine")
    parser.add_argument("--lock", type=Path, help="its fib.lock; default: beside it")
    parser.add_argument("--adapters", default="sglang.gemm", help="FIB_ADAPTERS of the ratio")
    parser.add_argument("--margin", type=float, default=0.0, help="FIB_APPLY_MARGIN of the ratio")
    parser.add_argument("--layers", type=int, default=32, help="of the model that is timed")
    parser.add_argument("--batches", type=lambda text: [int(part) for part in text.split(",")], default="1,16,64")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="a CPU engine and its sizes")
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args()
    if options.tiny:
        sys.path.insert(0, str(STAND_INS))
    with tempfile.TemporaryDirectory() as folder:
        Run(options, Path(folder)).all()


class Run:
    """The sections in their order, the engines that are up, and the report, whose other sections are kept."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        parts = {"fp8": [f"fp8 {kind}" for kind in FP8]}
        self.sections = [part for name in options.sections.split(",") for part in parts.get(name, [name])]
        self.began = time.perf_counter()
        self.failed: list[str] = []
        self.engines: dict[str, Worker] = {}
        self.started = 0

    def all(self) -> None:
        sections: dict[str, Callable[[], dict[str, Any]]] = {
            "capture": self.capture,
            "marks": self.marks,
            "moe": self.moe,
            "ratio": self.ratio,
            **{f"fp8 {kind}": partial(self.fp8, kind) for kind in FP8},
        }
        try:
            self.start_first()
            for name in self.sections:
                self.section(name, sections[name])
        finally:
            for worker in self.engines.values():
                worker.close()
        if self.failed:
            raise SystemExit(f"failed: {', '.join(self.failed)}; see {self.options.report}")

    def section(self, name: str, run: Callable[[], dict[str, Any]]) -> None:
        try:
            found = run()
        except Exception as error:
            traceback.print_exc()
            self.failed.append(name)
            found = {"failure": f"{type(error).__name__}: {error}"[-2000:]}
        try:
            whole = json.loads(self.options.report.read_text())
        except (OSError, ValueError):
            whole = {}
        found["seconds_until_here"] = round(time.perf_counter() - self.began, 1)
        found["date"] = datetime.now(timezone.utc).isoformat(timespec="minutes")
        whole |= {name: found, **self.facts()}
        self.options.report.parent.mkdir(parents=True, exist_ok=True)
        self.options.report.write_text(json.dumps(whole, indent=1) + "\n")
        print(f"{name}: {json.dumps(found)}", flush=True)

    def facts(self) -> dict[str, Any]:
        import torch

        from fib_plugin.dataset import current_environment

        environment = current_environment()
        return {"device": environment.hardware, "versions": environment.libs | {"torch": torch.__version__}}

    # ---- engines ----------------------------------------------------------------------------------------------------

    def start_first(self) -> None:
        """What needs no other section's result, all at once."""
        if {"capture", "marks"} & set(self.sections):
            self.start("traced", variables=TRACING)
        if "capture" in self.sections:
            self.start("eager", eager=True, variables=TRACING)
        if "moe" in self.sections:
            self.start("traced moe", kind="qwen3_moe", eager=True, variables=TRACING)
        if "ratio" in self.sections and self.options.dataset is not None:
            self.start("stock", kind=None)

    def start(
        self,
        name: str,
        dataset: Path | None = None,
        kind: str | None = "llama",
        eager: bool = False,
        variables: dict[str, str] | None = None,
    ) -> Worker:
        tiny, dataset = self.options.tiny, dataset or self.folder / f"{name}.dataset"
        self.started += 1
        shape: dict[str, Any] = {"eager": eager, "tiny": tiny, "share": 0.35, "tokens": 16384}
        shape["port"] = 20000 + 2000 * self.started
        if kind is None:
            shape |= {"layers": self.options.layers, "vocabulary": 128256, "share": 0.5}
        else:
            shape |= {"model": str(self.model(kind)), "vocabulary": VOCABULARY}
        if tiny:
            shape["tokens"] = 2048
        paths = {
            "FIB_DATASET_PATH": str(dataset),
            "FIB_CACHE_PATH": str(self.folder / f"{name}.cache"),
            "FIB_LOCK_PATH": str(dataset.parent / f"{dataset.name}.lock"),
        }
        self.engines[name] = engine(name, shape, paths | (variables or {}), self.folder)
        return self.engines[name]

    def model(self, kind: str) -> Path:
        path = self.folder / "models" / kind
        path.parent.mkdir(exist_ok=True)
        if self.options.tiny:
            return make(path, kind)
        return make(path, kind, "bfloat16", hidden=1024, intermediate=2048, layers=4, heads=8, kv_heads=2)

    def close(self, *names: str) -> None:
        for name in names:
            if name in self.engines:
                self.engines.pop(name).close()

    # ---- sections ---------------------------------------------------------------------------------------------------

    def capture(self) -> dict[str, Any]:
        counts: dict[str, dict[str, Any]] = {}
        for name in ("traced", "eager"):
            self.engines[name].ask("start")
            print(f"{name}: up after {time.perf_counter() - self.began:.0f} s", flush=True)
            counts[name] = {str(batch): self.engines[name].ask("count", batch) for batch in COUNTED}
        self.close("eager")
        status = self.engines["traced"].ask("status")
        rows = {
            name: {batch: {d: _rows(c) for d, c in calls.items()} for batch, calls in counts[name].items()}
            for name in counts
        }
        return {
            "counts_equal": {b: counts["traced"][b] == counts["eager"][b] for b in counts["traced"]},
            "rows_equal": {b: rows["traced"][b] == rows["eager"][b] for b in counts["traced"]},
            "calls": {name: counts[name]["1"] for name in counts},
            "capture": {key: status["capture"][key] for key in ("seen", "written", "bytes", "dropped", "errors")},
            "hooks": {t["target"]: f"{t['state']} {t['detail']}".strip() for t in status["targets"]},
            "fallbacks": {name: line["fallbacks"] for name, line in status["ops"].items()},
        }

    def marks(self) -> dict[str, Any]:
        traced = self.engines["traced"]
        traced.ask("start")
        for samplings in (None, *SAMPLED.values()):
            traced.ask("generate", BATCH, TOKENS, LENGTH, samplings)
        stock = traced.ask("generate", 1, TOKENS, LENGTH)
        self.close("traced", "eager")
        marked = self.proven("traced", "marked")
        found = {name: self.mark(marked, name, SAMPLED.get(name)) for name in (*DENSE, *SAMPLED)}
        right = marked.ask("generate", 1, TOKENS, LENGTH)
        return self.finished("marked", found) | {"tokens_as_stock": _same(stock, right)}

    def moe(self) -> dict[str, Any]:
        return self.alone("moe", "qwen3_moe", "sglang.moe", ("moe",))

    def fp8(self, kind: str) -> dict[str, Any]:
        if self.options.tiny:
            return {"left_out": "fp8 layers need a GPU"}
        return self.alone(kind, kind, "sglang.gemm_fp8,sglang.moe_fp8", FP8[kind])

    def alone(self, name: str, kind: str, adapters: str, families: Sequence[str]) -> dict[str, Any]:
        """Marks of ``families`` in a model that is captured for them, with these adapters only."""
        traced, marked = f"traced {name}", f"marked {name}"
        # The ratio closes what was up before it.
        worker = self.engines.get(traced) or self.start(traced, kind=kind, eager=True, variables=TRACING)
        worker.ask("start")
        worker.ask("generate", 1, TOKENS, LENGTH)
        self.close(traced)
        worker = self.proven(traced, marked, kind=kind, FIB_ADAPTERS=adapters)
        return self.finished(marked, {family: self.mark(worker, family, None) for family in families})

    def proven(self, source: str, name: str, kind: str = "llama", **variables: str) -> Worker:
        """An engine with apply on and a marked solution for every definition that ``source`` captured."""
        from fib_plugin.dataset import merge

        dataset = self.folder / f"{name}.dataset"
        shutil.copytree(self.folder / f"{source}.dataset", dataset)
        merge(dataset, every=True)
        sizes = (*range(1, MOST_ROWS + 1), *(number * TOKENS for number in range(1, BATCH + 1)))
        prove(dataset, dataset.parent / f"{dataset.name}.lock", sizes)
        device = "cpu" if self.options.tiny else "cuda"
        switches = {"FIB_ENABLE_APPLY": "1", "FIB_PROBATION": "0", "FIB_PROBE_MARKS": device, **variables}
        worker = self.start(name, dataset, kind, variables=switches)
        worker.ask("start")
        print(f"{name}: up after {time.perf_counter() - self.began:.0f} s", flush=True)
        return worker

    def mark(self, worker: Worker, name: str, samplings: list[dict[str, Any]] | None) -> dict[str, Any]:
        """Tokens without the mark, with it, and without it again.

        Alone, a request is served the same way every time; where samplers need others beside it, they may be put
        together otherwise, and in bfloat16 that may tip a token.
        """
        tokens = []
        for mark in ("", name, ""):
            worker.ask("mark", mark)
            made = worker.ask("generate", BATCH if samplings else 1, TOKENS, LENGTH, samplings)
            tokens.append(made[:CERTAIN])
        marked, back = _same(tokens[0], tokens[1]), _same(tokens[0], tokens[2])
        found = {
            "of": marked["of"],
            "changed": marked["of"] - marked["equal"],
            "not_back": back["of"] - back["equal"],
            "first_tokens_changed": sum(a[0] != b[0] for a, b in zip(tokens[0], tokens[1], strict=True)),
        }
        print(f"  {name}: {found}", flush=True)
        return found

    def finished(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        worker = self.engines[name]
        status = worker.ask("status")
        told = {
            "every_op_marked": all(each["changed"] > each["not_back"] for each in found.values()),
            "ops": found,
            "substituted": {op: [line["substituted"], line["calls"]] for op, line in status["ops"].items()},
            "fallbacks": {op: line["fallbacks"] for op, line in status["ops"].items()},
            "placed": worker.ask("placed"),
            "quarantined": status["quarantined"],
        }
        self.close(name)
        return told

    def ratio(self) -> dict[str, Any]:
        options = self.options
        if options.dataset is None:
            return {"left_out": "no --dataset"}
        self.close(*(name for name in list(self.engines) if name != "stock"))
        lock = options.lock or options.dataset.parent / "fib.lock"
        compiled = compile_trusted(options.dataset, lock, self.folder / "apply.cache")
        switches = {
            "FIB_ENABLE_APPLY": "1",
            "FIB_ADAPTERS": options.adapters,
            "FIB_APPLY_MARGIN": str(options.margin),
            "FIB_LOCK_PATH": str(lock),
        }
        stock, applied = (
            self.engines["stock"],
            self.start("apply", options.dataset.absolute(), None, variables=switches),
        )
        for worker in (stock, applied):
            worker.ask("start")
        print(f"stock and apply: up after {time.perf_counter() - self.began:.0f} s", flush=True)
        found: dict[str, Any] = {}
        for batch in options.batches:
            asked = ("decode", batch, TOKENS, 64) if options.tiny else ("decode", batch, 64, 128)
            sides = {"stock": partial(stock.ask, *asked), "apply": partial(applied.ask, *asked)}
            steps = in_turns(sides, options.rounds)
            found[str(batch)] = ratios(steps["stock"], steps["apply"]).to_dict()
            print(f"  batch {batch}: {found[str(batch)]}", flush=True)
        status, placed = applied.ask("status"), applied.ask("placed")
        self.close("stock", "apply")
        return {
            "model": f"random-weight Llama-3.1-8B, {options.layers} layers, bfloat16, greedy, 64 in, 128 out",
            "adapters": options.adapters,
            "margin": options.margin,
            "compile": compiled,
            "ms_per_step": found,
            "substituted": {op: [line["substituted"], line["calls"]] for op, line in status["ops"].items()},
            "fallbacks": {op: line["fallbacks"] for op, line in status["ops"].items()},
            "placed": placed,
        }


def _rows(calls: dict[str, int]) -> int:
    """How many rows a definition's calls had: the same however requests were put together."""
    found = 0
    for axes, count in calls.items():
        sizes = json.loads(axes)
        axis = next(axis for axis in ("M", "batch_size", "num_tokens", "total_q") if axis in sizes)
        found += sizes[axis] * count
    return found


def _same(first: list[list[int]], second: list[list[int]]) -> dict[str, int]:
    pairs = [pair for a, b in zip(first, second, strict=True) for pair in zip(a, b, strict=True)]
    return {"of": len(pairs), "equal": sum(a == b for a, b in pairs)}


if __name__ == "__main__":
    main()
