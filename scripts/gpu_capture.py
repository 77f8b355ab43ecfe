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
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_theta": 500000.0,
}
#: Batches whose prefill (16 tokens a request) and decode sizes vLLM captures as they are, so that nothing is padded.
COUNTED = (1, 4, 16)
TIMED = (1, 16, 64)
ROUNDS = 15
#: Begins the lines of an engine process that are answers; the engine prints others.
ANSWER = "answer: "
#: Three engines share the device.
SHARE = 0.28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--report", type=Path, help="also write the JSON object here")
    parser.add_argument("--mode", choices=("stock", "graphs", "eager"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode is not None:
        serve(options.mode, options.layers)
        return
    with tempfile.TemporaryDirectory() as folder:
        # One after the other: each looks how much memory is free.
        engines = {mode: Engine(mode, options.layers, Path(folder)) for mode in ("stock", "graphs", "eager")}
        counts = {mode: {str(b): engines[mode].ask("count", b) for b in COUNTED} for mode in ("graphs", "eager")}
        status = engines["graphs"].ask("status")
        engines.pop("eager").close()
        steps = in_turns(engines["stock"], engines["graphs"], options.rounds)
        for engine in engines.values():
            engine.close()
    report = compare(counts, status, steps, options.layers)
    if options.report is not None:
        options.report.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


class Engine:
    """One engine in a process of its own, which answers one line of JSON with another."""

    def __init__(self, mode: str, layers: int, folder: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FIB_")}
        environment |= {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_USE_FLASHINFER_SAMPLER": "0",
            "FIB_DATASET_PATH": str(folder / mode),
            "FIB_CACHE_PATH": str(folder / f"{mode}.cache"),
        }
        if mode != "stock":
            environment["FIB_ENABLE_TRACING"] = "1"
        command = [sys.executable, __file__, "--mode", mode, "--layers", str(layers)]
        began = time.perf_counter()
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask("start")
        print(f"{mode}: up after {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    def ask(self, what: str, batch: int = 0) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, batch]) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line[len(ANSWER) :])
        raise SystemExit(f"the engine ended with code {self._process.wait()}")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def in_turns(stock: Engine, capture: Engine, rounds: int) -> dict[str, dict[str, list[float]]]:
    """ms per decode step by batch and engine; who is first alternates."""
    found: dict[str, dict[str, list[float]]] = {}
    for batch in TIMED:
        taken: dict[str, list[float]] = {"stock": [], "capture": []}
        pair = [("stock", stock), ("capture", capture)]
        for number in range(rounds + 1):
            for name, engine in pair if number % 2 else reversed(pair):
                took = engine.ask("time", batch)
                if number:  # the first round warms up
                    taken[name].append(took)
        found[str(batch)] = taken
    return found


def serve(mode: str, layers: int) -> None:
    from vllm import LLM, SamplingParams

    model = Path(tempfile.mkdtemp())
    (model / "config.json").write_text(json.dumps({**LLAMA_8B, "num_hidden_layers": layers}))
    llm = LLM(
        model=str(model),
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=2048,
        gpu_memory_utilization=SHARE,
        max_num_seqs=64,
        seed=0,
        enforce_eager=mode == "eager",
        enable_prefix_caching=False,
    )

    def generate(batch: int, tokens: int, length: int) -> float:
        chooser = random.Random(batch)
        prompts = [{"prompt_token_ids": chooser.choices(range(5, 128000), k=tokens)} for _ in range(batch)]
        params = SamplingParams(max_tokens=length, ignore_eos=True, detokenize=False, temperature=0.0)
        start = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - start

    def answer(what: str, batch: int) -> Any:
        if what == "time":
            return generate(batch, 64, 128) / 128 * 1e3
        if what == "start":
            return None
        from fib_plugin import plugin

        active = plugin.active()
        assert active is not None, "the plugin is not active"
        before = active.runtime.snapshot()
        if what == "status":
            return before["status"]
        generate(batch, 16, 16)
        return difference(before["calls"], active.runtime.snapshot()["calls"])

    for line in sys.stdin:
        print(ANSWER + json.dumps(answer(*json.loads(line))), flush=True)


def difference(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Calls by definition and axes that came in between."""
    found = {
        name: {axes: count - before.get(name, {}).get(axes, 0) for axes, count in counts.items()}
        for name, counts in after.items()
    }
    return {name: {axes: n for axes, n in sorted(counts.items()) if n} for name, counts in sorted(found.items())}


def compare(
    counts: dict[str, dict[str, Any]], status: dict[str, Any], steps: dict[str, dict[str, list[float]]], layers: int
) -> dict[str, Any]:
    import torch

    graphs, eager = counts["graphs"], counts["eager"]
    differing = [batch for batch in graphs if graphs[batch] != eager[batch]]
    total = sum(n for batch in graphs.values() for calls in batch.values() for n in calls.values())
    median = statistics.median
    ratios = {
        batch: [stock / capture for stock, capture in zip(taken["stock"], taken["capture"], strict=True)]
        for batch, taken in steps.items()
    }
    return {
        "counts_equal": not differing and total > 0,
        "batches_that_differ": {batch: [graphs[batch], eager[batch]] for batch in differing},
        "calls_counted": total,
        "definitions": sorted({name for batch in graphs.values() for name in batch}),
        "ms_step_stock": {batch: round(median(taken["stock"]), 3) for batch, taken in steps.items()},
        "ms_step_capture": {batch: round(median(taken["capture"]), 3) for batch, taken in steps.items()},
        "throughput_ratio": {batch: round(median(found), 4) for batch, found in ratios.items()},
        "ratio_quartiles": {
            batch: [round(q, 4) for q in statistics.quantiles(found, n=4)[::2]] for batch, found in ratios.items()
        },
        "rounds": {batch: len(found) for batch, found in ratios.items()},
        "capture": {key: status["capture"][key] for key in ("seen", "written", "bytes", "dropped", "errors")},
        "hooks": {target["target"]: target.get("state", "") for target in status["targets"]},
        "model": f"random-weight Llama-3.1-8B, {layers} layers, bfloat16",
        "device": torch.cuda.get_device_name(),
        "versions": status["engine"] | {"torch": torch.__version__},
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


if __name__ == "__main__":
    main()
