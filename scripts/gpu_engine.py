"""vLLM in a process of its own, for the GPU scripts: started with a mode, asked to decode, to count, to say what ran.

The scripts use ``engine(...)``; the process itself runs ``python gpu_engine.py OPTIONS``. Weights are random: a
model of that shape is as fast as the real one, and needs no download.
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

from gpu_logprobs import Answer, answer

from fib_plugin.compare.worker import Worker, answer_requests

LLAMA_8B: dict[str, Any] = {
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
#: As many lines has a profile.
KERNELS = 20
#: For trying a script where there is no GPU.
TINY = LLAMA_8B | {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "torch_dtype": "float32",
}


def engine(name: str, options: dict[str, Any], environment: dict[str, str]) -> Worker:
    """Starts an engine; ``ask("start")`` waits until it is up.

    Args:
        options: layers, share (of the device's memory), kv_gib (size of the cache; then engines may start at the
            same time), eager, tiny, seqs (most requests at once).
        environment: what differs from ours; FIB_ variables of ours are not handed on.
    """
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FIB_")}
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if options.get("tiny"):
        quiet["VLLM_CPU_KVCACHE_SPACE"] = "1"
    return Worker([sys.executable, __file__, json.dumps(options)], clean | quiet | environment, name)


def serve(options: dict[str, Any]) -> None:
    from vllm import LLM, SamplingParams

    tiny = options.get("tiny", False)
    config: dict[str, Any] = (TINY if tiny else LLAMA_8B) | {"num_hidden_layers": options["layers"]}
    model = Path(tempfile.mkdtemp())
    (model / "config.json").write_text(json.dumps(config))
    device = {} if tiny else {"gpu_memory_utilization": options["share"]}
    if "kv_gib" in options:
        # Said rather than measured: who measures must be alone on the device.
        device["kv_cache_memory_bytes"] = int(options["kv_gib"] * 2**30)
    llm = LLM(
        model=str(model),
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype=config["torch_dtype"],
        max_model_len=256 if tiny else 2048,
        max_num_seqs=options.get("seqs", 64),
        seed=0,
        enforce_eager=options.get("eager", False),
        enable_prefix_caching=False,
        **device,
    )

    def drawn(batch: int, tokens: int, seed: int) -> list[dict[str, Any]]:
        chooser = random.Random(seed)
        ids = range(5, config["vocab_size"] - 5)
        return [{"prompt_token_ids": chooser.choices(ids, k=tokens)} for _ in range(batch)]

    def generate(batch: int, tokens: int, length: int, sampling: dict[str, Any]) -> list[list[int]]:
        params = SamplingParams(max_tokens=length, ignore_eos=True, detokenize=False, **sampling)
        outputs = llm.generate(drawn(batch, tokens, batch), params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    def decode(batch: int, tokens: int = 64, length: int = 128, sampling: dict[str, Any] | None = None) -> float:
        """ms per step."""
        start = time.perf_counter()
        generate(batch, tokens, length, sampling or {"temperature": 0.0})
        return (time.perf_counter() - start) / length * 1e3

    def profile(batch: int, length: int = 64) -> list[dict[str, Any]]:
        """The kernels that took most of a generation, by name; the one prefill is among them."""
        from torch.profiler import ProfilerActivity
        from torch.profiler import profile as recorded

        with recorded(activities=[ProfilerActivity.CUDA]) as found:
            greedy(batch, 8, length)
        kernels = sorted(found.key_averages(), key=lambda kernel: -kernel.self_device_time_total)
        return [
            {
                "kernel": kernel.key[:120],
                "calls": kernel.count,
                "us_each": round(kernel.self_device_time_total / kernel.count, 2),
                "us_step": round(kernel.self_device_time_total / length, 1),
            }
            for kernel in kernels[:KERNELS]
        ]

    def greedy(batch: int, tokens: int, length: int) -> list[list[int]]:
        return generate(batch, tokens, length, {"temperature": 0.0})

    def scored(batch: int, tokens: int, length: int, together: int) -> Answer:
        """Greedy, with log-probabilities; the batch's prompts in groups of ``together``, filled up with others."""
        params = SamplingParams(max_tokens=length, ignore_eos=True, detokenize=False, temperature=0.0, logprobs=2)
        prompts, outputs = drawn(batch, tokens, batch), []
        for at in range(0, batch, together):
            group = prompts[at : at + together]
            filled = group + drawn(together - len(group), tokens, batch + 1)
            outputs += llm.generate(filled, params, use_tqdm=False)[: len(group)]
        return answer(outputs)

    def count(batch: int) -> Any:
        """Calls by definition and axes of a short generation."""
        before = runtime().snapshot()["calls"]
        greedy(batch, 16, 16)
        return difference(before, runtime().snapshot()["calls"])

    answers: dict[str, Callable[..., Any]] = {
        "start": lambda: None,
        "decode": decode,
        "greedy": greedy,
        "scored": scored,
        "count": count,
        "profile": profile,
        "redraw": lambda: redraw(llm),
        "status": lambda: runtime().snapshot()["status"],
        "placed": placed,
    }
    answer_requests(lambda what, *arguments: answers[what](*arguments))


def redraw(llm: Any) -> str:
    """Gives matrices normal weights and norms ones, the same in each engine: a dummy model's make all tokens alike."""

    def draw(model: Any) -> int:
        import torch

        changed = 0
        for number, (_, weight) in enumerate(model.named_parameters()):
            if weight.dim() < 2:
                weight.data.fill_(1.0)
            else:
                generator = torch.Generator(device=weight.device).manual_seed(number)
                weight.data.normal_(std=0.02, generator=generator)
            changed += 1
        return changed

    try:
        return f"matrices normal with std 0.02, norms 1, {llm.apply_model(draw)[0]} parameters"
    except Exception as error:
        return f"as a dummy model has them: {error!r}"


def runtime() -> Any:
    from fib_plugin import plugin

    active = plugin.active()
    assert active is not None, "the plugin is not active in this engine"
    return active.runtime


def placed() -> dict[str, dict[str, Any]]:
    """By definition and axes: the solution that runs there, or why the engine's op does, and the calls of each."""
    from fib_plugin.dataset import axes_key

    state = runtime()
    replays = state.graphs.replays()
    found: dict[str, dict[str, Any]] = {}
    for site in list(state.sites):
        sizes = found.setdefault(site.definition.name, {})
        for entry in site.all_entries():
            calls = entry.calls + replays.get(entry, 0)
            if calls:
                what = entry.solution if entry.run is not None else entry.reason
                runs = sizes.setdefault(axes_key(entry.axes), {})
                runs[str(what)] = runs.get(str(what), 0) + calls
    return found


def difference(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Calls by definition and axes that came in between."""
    found = {
        name: {axes: count - before.get(name, {}).get(axes, 0) for axes, count in counts.items()}
        for name, counts in after.items()
    }
    return {name: {axes: n for axes, n in sorted(counts.items()) if n} for name, counts in sorted(found.items())}


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
