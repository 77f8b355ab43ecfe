"""Steps of one vLLM process with capture's hooks at work and at rest in turn: what they cost whatever else runs.

Started by bench_capture.py: ``bench_capture_steps.py MODEL ROUNDS BATCH TOKENS``; answers one line of JSON. Two
processes differ by a few percent whatever they run; here both sides have the same memory, and a round of each is
served right after the other. At rest a hook calls the engine's function at once, so what is not seen here is that one
call of Python; what the writer's thread takes is told apart.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import threading
import time
from typing import Any


def main(model: str, rounds: int, batch: int, tokens: int) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the engine prints, too
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    from fib_plugin import plugin

    llm = LLM(
        model=model,
        dtype="float32",
        max_model_len=64 + tokens + 16,
        max_num_seqs=batch,
        max_num_batched_tokens=max(256, batch),
        enforce_eager=True,
        enable_prefix_caching=False,
        seed=0,
    )
    active: Any = plugin.active()
    assert active is not None, "the plugin is not active"
    words = random.Random(0)
    prompts = [TokensPrompt(prompt_token_ids=words.choices(range(5, 512), k=64)) for _ in range(batch)]
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0.0)

    def served(live: bool) -> tuple[float, float]:
        """Seconds of a round, by the wall and of this thread."""
        for adapter in active.runtime.adapters.values():
            adapter.live = live
        wall, own = time.perf_counter(), time.thread_time()
        llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - wall, time.thread_time() - own

    for live in (True, False, True):
        served(live)
    before, began = seen(active), time.perf_counter()
    writer_before = writer_seconds()
    pairs = []
    for number in range(rounds):
        order = (True, False) if number % 2 else (False, True)
        pairs.append({live: served(live) for live in order})
    took = time.perf_counter() - began
    share = (writer_seconds() - writer_before) / took
    calls = (seen(active) - before) / rounds
    answer: dict[str, Any] = {"rounds": rounds, "batch": batch, "steps": tokens, "calls_a_step": round(calls / tokens)}
    for at, clock in enumerate(("wall", "thread")):
        ratios = [pair[False][at] / pair[True][at] for pair in pairs]
        low, _, high = statistics.quantiles(ratios, n=4)
        answer |= {
            f"ratio_{clock}": round(statistics.median(ratios), 4),
            f"quartiles_{clock}": [round(low, 4), round(high, 4)],
            f"step_ms_{clock}": round(statistics.median(pair[False][at] for pair in pairs) / tokens * 1e3, 3),
        }
    print(json.dumps({**answer, "writer_share": round(share, 5)}), file=answers)


def seen(active: Any) -> int:
    return sum(entry.calls for site in active.runtime.sites for entry in site.all_entries())


def writer_seconds() -> float:
    """Of the processor, that the writer's thread has used."""
    (thread,) = (each for each in threading.enumerate() if each.name == "fib-writer")
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
