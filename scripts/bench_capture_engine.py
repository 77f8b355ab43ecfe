"""What capture costs a real engine, for bench_capture.py: two processes side by side, one with its hooks in turn."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent
#: By name: the demo's, whose ops take microseconds; layers as models of half a billion parameters have, the smallest
#: that are served; and as those of one billion have.
MODELS = {
    "toy": {"hidden": 128, "intermediate": 256, "layers": 2, "heads": 4, "kv_heads": 2},
    "small": {"hidden": 1024, "intermediate": 2816, "layers": 8, "heads": 16, "kv_heads": 8},
    "realistic": {"hidden": 2048, "intermediate": 8192, "layers": 4, "heads": 32, "kv_heads": 8},
}
MODEL = MODELS["small"]
#: Of rounds, how many more than the largest model a smaller one gets: its rounds are shorter.
_MORE = {"toy": 10, "small": 2, "realistic": 1}
#: Requests at once and tokens that each gets, in a round of ``in_turns``.
BATCH, TOKENS = 8, 32


def made(work: Path, model: dict[str, int]) -> Path:
    """The checkpoint of a model, made once."""
    path = work / "model-{hidden}x{layers}".format(**model)
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in model.items()]
    subprocess.run([sys.executable, SCRIPTS / "make_model.py", path, *sizes], check=True, stderr=subprocess.DEVNULL)
    return path


def in_turns(work: Path, rounds: int) -> dict[str, Any]:
    """See bench_capture_steps.py; by model."""
    found: dict[str, Any] = {}
    for name, model in MODELS.items():
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("FIB_", "VLLM_"))}
        environment |= {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "FIB_ENABLE_TRACING": "1",
            "FIB_DATASET_PATH": str(work / f"{name}.captured"),
            "FIB_CACHE_PATH": str(work / f"{name}.cache"),
            "FIB_LOCK_PATH": str(work / "fib.lock"),
        }
        command = [sys.executable, str(SCRIPTS / "bench_capture_steps.py"), str(made(work, model))]
        with (work / f"{name}.log").open("w") as log:
            done = subprocess.run(
                [*command, str(rounds * _MORE[name]), str(BATCH), str(TOKENS)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                check=True,
            )
        found[name] = {**json.loads(done.stdout.splitlines()[-1]), "model": {"kind": "llama", **model}}
    return found


def throughput(work: Path, count: int, rounds: int, starts: int) -> dict[str, Any]:
    """Two engines serve the same requests in turn, one with capture on; sizes are known to both by then."""
    from server import Server, race
    from traffic import requests

    model = made(work, MODEL)
    switches = {
        "FIB_ENABLE_TRACING": "1",
        "FIB_DATASET_PATH": str(work / "captured"),
        "FIB_CACHE_PATH": str(work / "cache"),
        "FIB_LOCK_PATH": str(work / "fib.lock"),
    }
    shutil.rmtree(work / "captured", ignore_errors=True)
    races, generated = [], 0
    for start in range(starts):
        # Two processes differ by a few percent, whatever they run: which one starts first alternates.
        off, on = Server("off", model, count, work, {}), Server("on", model, count, work, switches)
        with contextlib.ExitStack() as stack:
            for server in (off, on) if start % 2 == 0 else (on, off):
                stack.enter_context(server)
                server.warm_up()
            races.append(race(off, on, rounds))
            generated = off.rounds[-1].generated
    ratios = [1 / each.ratio for each in races]  # of seconds, the median is on over off
    lines = sum(file.read_bytes().count(b"\n") for file in (work / "captured").glob("workloads/**/*.jsonl"))
    assert lines, f"nothing was captured; see {work}/logs/on.log"
    prompts = sum(len(request.prompt) for group in requests(count).values() for request in group)
    return {
        "throughput_ratio": round(statistics.mean(ratios), 4),
        "ratio_by_start": [round(ratio, 4) for ratio in ratios],
        "ratio_lowest": round(min(1 / each.highest for each in races), 4),
        "ratio_highest": round(max(1 / each.lowest for each in races), 4),
        "rounds": rounds,
        "round_s": round(statistics.median(each.stock for each in races), 2),
        "round_s_capture": round(statistics.median(each.other for each in races), 2),
        "captured": lines,
        "engine": "vLLM on CPU, eager, float32, one thread, up to 8 requests at once",
        "model": {"kind": "llama", **MODEL},
        "requests": count,
        "prompt_tokens": prompts,
        "output_tokens": generated,
    }
