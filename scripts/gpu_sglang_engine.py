"""SGLang in a process of its own, for scripts/gpu_sglang.py: asked to decode, to mark, to say what ran.

The script uses ``engine(...)``; the process runs ``python gpu_sglang_engine.py OPTIONS``, its scheduler is another one
that scripts/sglang_probe.py reaches. Counts and status are those of the scheduler.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_engine import LLAMA_8B, difference
from sglang_probe import ask, enlist

from fib_plugin.compare.worker import Worker, answer_requests

STAND_INS = Path(__file__).parents[1] / "tests" / "engines" / "stand_ins"


def engine(name: str, options: dict[str, Any], environment: dict[str, str], folder: Path) -> Worker:
    """Starts an engine; ``ask("start")`` waits until it is up.

    Args:
        options: model (a folder; none: a random-weight Llama-3.1-8B of ``layers``), eager (no CUDA graphs), tokens
            (of the cache), share (of the memory that is free), port (its others are chosen above it; engines that start
            together need some room between them), tiny (on a CPU), vocabulary.
        environment: what differs from ours; FIB_ variables of ours are not handed on.
        folder: for the probe's entry point.
    """
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FIB_")}
    variables = {**clean, **enlist(folder / "probe"), "HF_HUB_OFFLINE": "1"}
    if options.get("tiny"):
        variables["PYTHONPATH"] += os.pathsep + str(STAND_INS)
        variables["SGLANG_USE_CPU_ENGINE"] = "1"
    return Worker([sys.executable, __file__, json.dumps(options)], variables | environment, name)


def serve(options: dict[str, Any]) -> None:
    import sglang

    model, load = options.get("model"), "auto"
    if model is None:
        model, load = tempfile.mkdtemp(), "dummy"
        config = LLAMA_8B | {"num_hidden_layers": options["layers"]}
        (Path(model) / "config.json").write_text(json.dumps(config))
    device: dict[str, Any] = {
        "dtype": "bfloat16",
        "attention_backend": "flashinfer",
        "sampling_backend": "flashinfer",
        "cuda_graph_max_bs_decode": 64,
        "skip_tokenizer_init": True,
        "grammar_backend": "none",
        "mem_fraction_static": options["share"],
        "disable_cuda_graph": options.get("eager", False),
        "disable_radix_cache": True,
        "random_seed": 0,
        "log_level": "warning",
    }
    if options.get("tiny"):
        from sglang_cpu import OPTIONS

        device = OPTIONS
    llm = sglang.Engine(
        model_path=model,
        load_format=load,
        max_total_tokens=options["tokens"],
        max_running_requests=64,
        context_length=512,
        port=options["port"],
        **device,
    )

    def generate(batch: int, tokens: int, length: int, samplings: list[dict[str, Any]] | None = None) -> list[Any]:
        chooser = random.Random(batch)
        ids = [chooser.choices(range(5, options["vocabulary"] - 5), k=tokens) for _ in range(batch)]
        each = samplings or [{"temperature": 0.0}] * batch
        params = [{"max_new_tokens": length, "ignore_eos": True, **sampling} for sampling in each]
        return [list(output["output_ids"]) for output in llm.generate(input_ids=ids, sampling_params=params)]

    def decode(batch: int, tokens: int, length: int, samplings: list[dict[str, Any]] | None = None) -> float:
        """ms per step."""
        start = time.perf_counter()
        generate(batch, tokens, length, samplings)
        return (time.perf_counter() - start) / length * 1e3

    def count(batch: int) -> Any:
        """Calls by definition and axes of a short generation."""
        before = ask(llm, "snapshot")["calls"]
        generate(batch, 16, 16)
        return difference(before, ask(llm, "snapshot")["calls"])

    answers: dict[str, Callable[..., Any]] = {
        "start": lambda: None,
        "generate": generate,
        "decode": decode,
        "count": count,
        "mark": lambda mark: ask(llm, "mark", mark),
        "status": lambda: ask(llm, "snapshot")["status"],
        "placed": lambda: ask(llm, "placed"),
    }
    answer_requests(lambda what, *arguments: answers[what](*arguments))
    llm.shutdown()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
