"""Capture on a GPU under vLLM's CUDA graphs: are the counts exact, and what does it cost.

    python scripts/gpu_capture.py [--layers N] [--rounds N] [--report FILE]

Starts vLLM three times on a random-weight Llama-3.1-8B: stock, with capture on in full default mode (torch.compile,
FULL and PIECEWISE CUDA graphs), and with capture on and no graphs at all. The same requests must give the same counts
in both captures. Stock and capture stay up side by side and decode in turns. The last line of output is one JSON
object; a ratio is stock's time over capture's, so 1 costs nothing and less than 1 is slower than stock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from gpu_engine import engine

from fib_plugin.compare.ratios import ratios
from fib_plugin.compare.turns import in_turns
from fib_plugin.compare.worker import Worker

#: Batches whose prefill (16 tokens a request) and decode sizes vLLM captures as they are, so that nothing is padded.
COUNTED = (1, 4, 16)
TIMED = (1, 16, 64)
ROUNDS = 15
#: Three engines share the device.
SHARE = 0.28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--report", type=Path, help="also write the JSON object here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # One after the other: each looks how much memory is free.
        engines = {mode: start(mode, options.layers, Path(folder)) for mode in ("stock", "graphs", "eager")}
        counts = {mode: {str(b): engines[mode].ask("count", b) for b in COUNTED} for mode in ("graphs", "eager")}
        status = engines["graphs"].ask("status")
        engines.pop("eager").close()
        steps = {}
        for batch in TIMED:
            sides = {mode: partial(engines[mode].ask, "decode", batch) for mode in ("stock", "graphs")}
            steps[str(batch)] = in_turns(sides, options.rounds)
        for one in engines.values():
            one.close()
    report = compare(counts, status, steps, options.layers)
    if options.report is not None:
        options.report.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def start(mode: str, layers: int, folder: Path) -> Worker:
    environment = {
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "FIB_DATASET_PATH": str(folder / mode),
        "FIB_CACHE_PATH": str(folder / f"{mode}.cache"),
    }
    if mode != "stock":
        environment["FIB_ENABLE_TRACING"] = "1"
    began = time.perf_counter()
    worker = engine(mode, {"layers": layers, "share": SHARE, "eager": mode == "eager"}, environment)
    worker.ask("start")
    print(f"{mode}: up after {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return worker


def compare(
    counts: dict[str, dict[str, Any]], status: dict[str, Any], steps: dict[str, dict[str, list[float]]], layers: int
) -> dict[str, Any]:
    import torch

    graphs, eager = counts["graphs"], counts["eager"]
    differing = [batch for batch in graphs if graphs[batch] != eager[batch]]
    total = sum(n for batch in graphs.values() for calls in batch.values() for n in calls.values())
    found = {batch: ratios(taken["stock"], taken["graphs"]) for batch, taken in steps.items()}
    return {
        "counts_equal": not differing and total > 0,
        "batches_that_differ": {batch: [graphs[batch], eager[batch]] for batch in differing},
        "calls_counted": total,
        "definitions": sorted({name for batch in graphs.values() for name in batch}),
        "ms_step_stock": {batch: round(statistics.median(taken["stock"]), 3) for batch, taken in steps.items()},
        "ms_step_capture": {batch: round(statistics.median(taken["graphs"]), 3) for batch, taken in steps.items()},
        "throughput_ratio": {batch: round(one.ratio, 4) for batch, one in found.items()},
        "ratio_quartiles": {batch: [round(q, 4) for q in one.quartiles] for batch, one in found.items()},
        "ratio_interval": {batch: [round(q, 4) for q in one.interval] for batch, one in found.items()},
        "rounds": {batch: one.rounds for batch, one in found.items()},
        "capture": {key: status["capture"][key] for key in ("seen", "written", "bytes", "dropped", "errors")},
        "hooks": {target["target"]: target.get("state", "") for target in status["targets"]},
        "model": f"random-weight Llama-3.1-8B, {layers} layers, bfloat16",
        "device": torch.cuda.get_device_name(),
        "versions": status["engine"] | {"torch": torch.__version__},
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


if __name__ == "__main__":
    main()
