"""Steps of one vLLM process with capture's hooks at work and at rest in turn: what they cost whatever else runs.

Started by bench_capture.py: ``bench_capture_steps.py MODEL ROUNDS BATCH TOKENS``; answers one line of JSON. Two
processes differ by a few percent whatever they run, and one process by as much from minute to minute. Here the hooks
change with every step, and the same requests are served again with the turns exchanged, so that each step of a round
is timed on both sides with the same work, a moment apart.

At rest a hook calls the engine's function at once: what that call of Python takes is measured apart (``rest_share``),
as is what the writer's thread takes of a processor, on both sides (``writer_share``). ``throughput_ratio`` has paid
for both, as if the writer's thread kept the engine's from running for all of its time.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import sys
import threading
import time
import timeit
from collections.abc import Sequence
from typing import Any

#: Rounds before the first that counts: all sizes are known and written down by then.
_WARM = 3
_RESAMPLED = 400
#: Steps of a round that hold prompts: as many tokens as fit in one, then the rest with the first outputs.
_PROMPTS = 3


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
        async_scheduling=False,
        seed=0,
    )
    active: Any = plugin.active()
    assert active is not None, "the plugin is not active"
    words = random.Random(0)
    prompts = [TokensPrompt(prompt_token_ids=words.choices(range(5, 512), k=64)) for _ in range(batch)]
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0.0)
    adapters = list(active.runtime.adapters.values())

    def served(number: int, odd: bool | None) -> list[tuple[float, float]]:
        """Seconds of each step, by the wall and of this thread; hooks work in every other one, None: in all."""
        engine = llm.llm_engine
        took: list[tuple[float, float]] = []
        for index, prompt in enumerate(prompts):
            engine.add_request(f"{number}-{index}", prompt, params)
        while engine.has_unfinished_requests():
            for adapter in adapters:
                adapter.live = odd is None or len(took) % 2 == odd
            wall, own = time.perf_counter(), time.thread_time()
            engine.step()
            took.append((time.perf_counter() - wall, time.thread_time() - own))
        return took

    for number in range(_WARM):
        served(-1 - number, None)
    active.runtime.writer.flush(60)
    before, began = seen(active), time.perf_counter()
    writer_before = writer_seconds()
    served_rounds = [served(number, number % 2 == 0) for number in range(2 * rounds)]
    took = time.perf_counter() - began
    share = (writer_seconds() - writer_before) / took
    steps = len(served_rounds[0])
    assert all(len(each) == steps for each in served_rounds), "rounds of equal requests took different steps"
    calls = (seen(active) - before) / rounds / steps
    answer: dict[str, Any] = {"rounds": rounds, "batch": batch, "steps": steps, "calls_a_step": round(calls)}
    for at, clock in enumerate(("wall", "thread")):
        times = [[step[at] for step in each] for each in served_rounds]
        low, high = interval(times)
        answer |= {
            f"ratio_{clock}": round(ratio(times), 5),
            f"interval_{clock}": [round(low, 5), round(high, 5)],
            f"step_us_{clock}": round(
                sum(statistics.median(at_step) for at_step in zip(*times, strict=True)) / steps * 1e6, 1
            ),
        }
    resting = calls * rest_seconds(active) / (answer["step_us_wall"] / 1e6)
    whole = answer["ratio_wall"] * (1 - share) * (1 - resting)
    answer |= {"writer_share": round(share, 5), "rest_share": round(resting, 5), "throughput_ratio": round(whole, 4)}
    print(json.dumps(answer), file=answers)


def ratio(rounds: Sequence[Sequence[float]]) -> float:
    """Throughput with hooks at work to that with hooks at rest, of rounds in which the turns alternate.

    In round r, step s has its hooks at work where s % 2 equals (r % 2 == 0). A step is compared with the two beside
    it, which had the other turn and nearly the same work, so that what changes more slowly than a step plays no part;
    the middle half of these differences counts. Steps that hold prompts have unlike neighbours and are left out.
    """
    differences: dict[bool, list[float]] = {True: [], False: []}
    for number, each in enumerate(rounds):
        logs = [math.log(seconds) for seconds in each]
        for step in range(_PROMPTS + 1, len(logs) - 1):
            live = step % 2 == (number % 2 == 0)
            differences[live].append(logs[step] - (logs[step - 1] + logs[step + 1]) / 2)
    return math.exp((middle(differences[False]) - middle(differences[True])) / 2)


def middle(values: Sequence[float]) -> float:
    """Mean of the middle half."""
    cut = len(values) // 4
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def interval(rounds: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95% interval of ``ratio``, by resampling pairs of rounds."""
    pairs = [rounds[at : at + 2] for at in range(0, len(rounds) - 1, 2)]
    draw = random.Random(0)
    ratios = sorted(
        ratio([each for pair in draw.choices(pairs, k=len(pairs)) for each in pair]) for _ in range(_RESAMPLED)
    )
    return ratios[int(0.025 * _RESAMPLED)], ratios[int(0.975 * _RESAMPLED)]


def rest_seconds(active: Any) -> float:
    """Of a call through a hook at rest, more than of the function it wraps: the hook of linear layers, as most are."""

    def impl(layer: Any, x: Any, weight: Any, bias: Any = None) -> None:
        return None

    gemm = next(adapter for name, adapter in active.runtime.adapters.items() if name.endswith(".gemm"))
    hook = gemm.choose(lambda: impl)()
    gemm.live = False
    calls = [lambda: hook(None, None, None, None), lambda: impl(None, None, None, None)]
    through, bare = (min(timeit.repeat(call, number=10_000, repeat=9)) / 10_000 for call in calls)
    return max(0.0, through - bare)


def seen(active: Any) -> int:
    return sum(entry.calls for site in active.runtime.sites for entry in site.all_entries())


def writer_seconds() -> float:
    """Of the processor, that the writer's thread has used."""
    (thread,) = (each for each in threading.enumerate() if each.name == "fib-writer")
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
