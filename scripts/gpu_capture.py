"""Capture on a GPU under vLLM's CUDA graphs: are the counts exact, and what does it cost.

    python scripts/gpu_capture.py [--layers N] [--report FILE]

Starts vLLM three times on a random-weight Llama-3.1-8B: stock, with capture on in full default mode (torch.compile,
FULL and PIECEWISE CUDA graphs), and with capture on and no graphs at all. The same requests must give the same counts
in both captures. The last line of output is one JSON object; ratios above 1 are slower than stock.
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
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--report", type=Path, help="also write the JSON object here")
    parser.add_argument("--mode", choices=("stock", "graphs", "eager"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode is not None:
        options.out.write_text(json.dumps(serve(options.mode, options.layers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {mode: start(mode, options.layers, Path(folder)) for mode in ("graphs", "eager", "stock")}
    report = compare(found, options.layers)
    if options.report is not None:
        options.report.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def start(mode: str, layers: int, folder: Path) -> dict[str, Any]:
    """One engine in a process of its own."""
    out = folder / f"{mode}.json"
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
    command = [sys.executable, __file__, "--mode", mode, "--layers", str(layers), "--out", str(out)]
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
    found: dict[str, Any] = json.loads(out.read_text())
    print(f"{mode}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def serve(mode: str, layers: int) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    model = Path(tempfile.mkdtemp())
    (model / "config.json").write_text(json.dumps({**LLAMA_8B, "num_hidden_layers": layers}))
    began = time.perf_counter()
    llm = LLM(
        model=str(model),
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=2048,
        gpu_memory_utilization=0.6,
        max_num_seqs=64,
        seed=0,
        enforce_eager=mode == "eager",
        enable_prefix_caching=False,
    )
    result: dict[str, Any] = {"start_s": round(time.perf_counter() - began, 1), "counts": {}, "ms_step": {}}

    def generate(batch: int, tokens: int, length: int) -> float:
        chooser = random.Random(batch)
        prompts = [{"prompt_token_ids": chooser.choices(range(5, 128000), k=tokens)} for _ in range(batch)]
        params = SamplingParams(max_tokens=length, ignore_eos=True, detokenize=False, temperature=0.0)
        start = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - start

    if mode != "stock":
        from fib_plugin import plugin

        active = plugin.active()
        assert active is not None, "the plugin is not active"
        runtime = active.runtime
        for batch in COUNTED:
            before = runtime.snapshot()["calls"]
            generate(batch, 16, 16)
            after = runtime.snapshot()["calls"]
            result["counts"][str(batch)] = difference(before, after)
        result["status"] = runtime.snapshot()["status"]
    if mode != "eager":
        for batch in TIMED:
            took = [generate(batch, 64, 128) for _ in range(ROUNDS)]
            result["ms_step"][str(batch)] = statistics.median(took[1:]) / 128 * 1e3
    return result


def difference(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Calls by definition and axes that came in between."""
    found = {
        name: {axes: count - before.get(name, {}).get(axes, 0) for axes, count in counts.items()}
        for name, counts in after.items()
    }
    return {name: {axes: n for axes, n in sorted(counts.items()) if n} for name, counts in sorted(found.items())}


def compare(found: dict[str, dict[str, Any]], layers: int) -> dict[str, Any]:
    import torch

    graphs, eager, stock = found["graphs"], found["eager"], found["stock"]
    differing = [batch for batch in graphs["counts"] if graphs["counts"][batch] != eager["counts"][batch]]
    total = sum(n for batch in graphs["counts"].values() for counts in batch.values() for n in counts.values())
    hooks = {target["target"]: target.get("state", "") for target in graphs["status"]["targets"]}
    return {
        "counts_equal": not differing and total > 0,
        "batches_that_differ": {batch: [graphs["counts"][batch], eager["counts"][batch]] for batch in differing},
        "calls_counted": total,
        "definitions": sorted({name for batch in graphs["counts"].values() for name in batch}),
        "ms_step_stock": {batch: round(ms, 3) for batch, ms in stock["ms_step"].items()},
        "ms_step_capture": {batch: round(ms, 3) for batch, ms in graphs["ms_step"].items()},
        "ratio": {batch: round(ms / stock["ms_step"][batch], 4) for batch, ms in graphs["ms_step"].items()},
        "start_s": {mode: result["start_s"] for mode, result in found.items()},
        "capture": graphs["status"]["capture"],
        "hooks": hooks,
        "model": f"random-weight Llama-3.1-8B, {layers} layers, bfloat16",
        "device": torch.cuda.get_device_name(),
        "versions": graphs["status"]["engine"] | {"torch": torch.__version__},
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


if __name__ == "__main__":
    main()
