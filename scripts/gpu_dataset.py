"""Makes a dataset of what vLLM really runs: real request lengths through random-weight models, merged and curated.

    python scripts/gpu_dataset.py --into DIR [--models A,B] [--requests N] [--keep N] [--max-mib N] [--tiny]

Each model is served in a process of its own, with capture on and CUDA graphs as vLLM sets them up; a model that fails
costs its own part only. What all of them wrote is merged into DIR/captured, curated into DIR/curated (fewer workloads a
definition until it has at most --max-mib) and validated. The last line of output is one JSON object. Request lengths
are those of the Azure LLM inference trace 2023 (scripts/data), prompts are random.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_models import MODELS

TRACE = Path(__file__).parent / "data" / "azure_llm_2023_excerpt.csv"
DEFAULT = "llama_3_1_8b,qwen3_30b_a3b,deepseek_v3"
#: Requests take turns, so that each of vLLM's ways to sample is met.
SAMPLINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 50},
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
)
#: Workloads a definition, as many as fit.
KEEPS = (50, 32, 20, 12, 8, 4, 2, 1)
#: Seconds for one model: a first start compiles.
TIMEOUT = 420


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="where the datasets and logs go")
    parser.add_argument("--models", default=DEFAULT, help=f"default {DEFAULT}; also {', '.join(MODELS)}")
    parser.add_argument("--layers", type=int, help="of every model; default what fits a 70 GiB device")
    parser.add_argument("--requests", type=int, default=200, help="requests of the trace, all served at once")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on their lengths")
    parser.add_argument("--keep", type=int, default=KEEPS[0], help=f"most workloads a definition (default {KEEPS[0]})")
    parser.add_argument("--max-mib", type=float, default=5.0, help="size of the curated dataset (default 5)")
    parser.add_argument("--memory", type=float, default=0.85, help="share of the device's memory (default 0.85)")
    parser.add_argument("--max-seqs", type=int, default=64, help="requests at once (default 64)")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help=f"seconds a model (default {TIMEOUT})")
    parser.add_argument("--eager", action="store_true", help="neither compile nor capture graphs")
    parser.add_argument("--tiny", action="store_true", help="tiny models in float32, to try this on a CPU")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        print(json.dumps(serve(options)))
        return
    began = time.perf_counter()
    unknown = set(options.models.split(",")) - set(MODELS)
    if unknown:
        parser.error(f"--models names {', '.join(sorted(unknown))}; known are {', '.join(MODELS)}")
    options.into.mkdir(parents=True, exist_ok=True)
    served = {name: in_process(name, options) for name in options.models.split(",")}
    report = {"models": served, **dataset(options.into, [*served], options.keep, options.max_mib)}
    print(json.dumps({**report, "seconds": round(time.perf_counter() - began, 1)}))
    if not report.get("valid"):
        raise SystemExit(1)


# ---- one model, in a process of its own -----------------------------------------------------------------------------


def in_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Serves one model; what is wrong is told in the answer and in the log."""
    root, log = options.into / name, options.into / f"{name}.log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FIB_")}
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # FlashInfer's sampler is compiled at its first use, for longer than all the rest takes.
        "VLLM_USE_FLASHINFER_SAMPLER": os.environ.get("VLLM_USE_FLASHINFER_SAMPLER", "0"),
        "FIB_ENABLE_TRACING": "1",
        "FIB_DATASET_PATH": str(root),
        "FIB_CACHE_PATH": str(options.into / f"{name}.cache"),
        "FIB_LOCK_PATH": str(options.into / "fib.lock"),
    }
    command = [sys.executable, __file__, "--serve", name, *sys.argv[1:]]
    began = time.perf_counter()
    print(f"{name}: serving; its log is {log}", file=sys.stderr, flush=True)
    with log.open("w") as errors:
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=options.timeout
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {options.timeout:g} s", "log_end": tail(log)}
    took = round(time.perf_counter() - began, 1)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"error": f"ended with code {done.returncode}", "seconds": took, "log_end": tail(log)}
    answer: dict[str, Any] = json.loads(lines[-1])
    return {**answer, "seconds": took}


def tail(log: Path, lines: int = 15) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-lines:]


def serve(options: argparse.Namespace) -> dict[str, Any]:
    """All requests through one engine, in this process."""
    answers = os.dup(1)
    os.dup2(2, 1)  # the engine prints, too
    from vllm import LLM, SamplingParams

    config = MODELS[options.serve].written(options.layers, options.tiny)
    wanted = lengths(options.requests, options.scale, 192 if options.tiny else 16000)
    longest = max(prompt + output for prompt, output in wanted)
    engine: dict[str, Any] = {"gpu_memory_utilization": options.memory}
    if options.tiny:
        engine = {"max_num_batched_tokens": 256}
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        llm = LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="float32" if options.tiny else "bfloat16",
            max_model_len=longest + 16,
            max_num_seqs=options.max_seqs,
            enforce_eager=options.eager or options.tiny,
            enable_prefix_caching=False,
            seed=0,
            **engine,
        )
    started = time.perf_counter()
    words = random.Random(0)
    prompts: list[Any] = [{"prompt_token_ids": words.choices(range(5, 512), k=tokens)} for tokens, _ in wanted]
    params: list[Any] = [
        SamplingParams(max_tokens=output, ignore_eos=True, detokenize=False, **SAMPLINGS[number % len(SAMPLINGS)])
        for number, (_, output) in enumerate(wanted)
    ]
    generated = sum(len(each.outputs[0].token_ids) for each in llm.generate(prompts, params, use_tqdm=False))
    served = time.perf_counter()
    answer = {
        "layers": config["num_hidden_layers"],
        "requests": len(wanted),
        "prompt_tokens": sum(prompt for prompt, _ in wanted),
        "output_tokens": generated,
        "start_s": round(started - began, 1),
        "serve_s": round(served - started, 1),
        **captured(),
    }
    sys.stdout.flush()
    os.dup2(answers, 1)
    return answer


def lengths(count: int, scale: float, longest: int) -> list[tuple[int, int]]:
    """(prompt, output) tokens of ``count`` requests at equal distances in the trace."""
    with TRACE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [rows[number * len(rows) // count] for number in range(count)] if count < len(rows) else rows

    def scaled(tokens: str) -> int:
        return max(2, min(longest, int(int(tokens) * scale)))

    return [(scaled(row["ContextTokens"]), scaled(row["GeneratedTokens"])) for row in chosen]


def captured() -> dict[str, Any]:
    """What the plugin of this process says that it saw and wrote."""
    from fib_plugin import plugin

    active = plugin.active()
    if active is None:
        raise SystemExit("the plugin is not active: nothing was captured")
    active.runtime.writer.flush(60)
    status = active.runtime.snapshot()["status"]
    return {
        "capture": {key: status["capture"][key] for key in ("seen", "written", "bytes", "dropped", "errors")},
        "declined": declined(status["ops"]),
        "hooks": {target["target"]: target.get("state", "") for target in status["targets"]},
        "engine": status["engine"],
    }


def declined(seen: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Calls that no definition could express, by adapter and reason."""
    reasons = {
        name: {reason: count for reason, count in op.get("fallbacks", {}).items() if reason != "apply_off"}
        for name, op in seen.items()
    }
    return {name: found for name, found in reasons.items() if found}


# ---- the dataset ----------------------------------------------------------------------------------------------------


def dataset(into: Path, names: list[str], keep: int, max_mib: float) -> dict[str, Any]:
    """Merged, curated and validated: what is in it, and what is wrong with it."""
    from fib_plugin.dataset import merge, validate

    sources = [into / name for name in names if (into / name).is_dir()]
    if not sources:
        return {"error": "no model wrote anything"}
    whole = into / "captured"
    merged = merge(whole, sources, every=True)
    report = curated(whole, into, keep, max_mib)
    checked = validate(into / "curated")
    problems = [*merged.problems, *checked.problems]
    return {
        "merged": {"added": dict(merged.added), "notes": merged.notes, "mib": mib(whole)},
        **report,
        "validated": dict(checked.checked),
        "problems": [str(problem) for problem in problems[:20]],
        "valid": not problems,
    }


def curated(whole: Path, into: Path, keep: int, max_mib: float) -> dict[str, Any]:
    """Curates with ever fewer workloads a definition until the result is small enough."""
    from fib_plugin.dataset.curating import curate

    tried: dict[int, float] = {}
    keeps = [keep, *(fewer for fewer in KEEPS if fewer < keep)]
    for number in keeps:
        with tempfile.TemporaryDirectory(dir=into) as folder:
            target = Path(folder, "curated")
            report = curate(whole, target, keep=number)
            tried[number] = mib(target)
            if tried[number] <= max_mib or number == keeps[-1]:
                target.rename(into / "curated")
                break
    rows = [row.to_dict() for row in report.rows]
    shown = ("workloads", "kept", "calls", "calls_share_exact", "calls_share_by_class")
    return {
        "keep": number,
        "mib_by_keep": tried,
        "small_enough": tried[number] <= max_mib,
        "total": report.total(),
        "definitions": {row["definition"]: {key: row[key] for key in shown} for row in rows},
    }


def mib(root: Path) -> float:
    return round(sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) / 2**20, 3)


if __name__ == "__main__":
    main()
