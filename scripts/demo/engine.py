"""A process that runs an engine: loads the model, then serves all requests once for every line on its standard input.

Started by server.py. Answers are JSON lines on standard output; whatever the engine prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from traffic import LONGEST_OUTPUT, LONGEST_PROMPT, SAMPLINGS, Request, requests

#: The tokens after each request's prompt, all of one sampling.
Generate = Callable[[list[Request], dict[str, Any]], list[list[int]]]
CONTEXT = LONGEST_PROMPT + LONGEST_OUTPUT + 16
REQUESTS_AT_ONCE = 8


def vllm(model: Path) -> Generate:
    """vLLM, in this process."""
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(
        model=str(model),
        dtype="float32",  # in bfloat16 a last bit that differs can tip a token, and the tokens are compared
        max_model_len=CONTEXT,
        max_num_seqs=REQUESTS_AT_ONCE,
        max_num_batched_tokens=256,
        enforce_eager=True,
        enable_prefix_caching=False,  # a repeated round does the same work
        seed=0,
    )

    def generate(wanted: list[Request], sampling: dict[str, Any]) -> list[list[int]]:
        prompts: list[Any] = [TokensPrompt(prompt_token_ids=request.prompt) for request in wanted]
        params = [SamplingParams(max_tokens=each.max_tokens, ignore_eos=True, **sampling) for each in wanted]
        return [list(output.outputs[0].token_ids) for output in llm.generate(prompts, params, use_tqdm=False)]

    return generate


def sglang(model: Path) -> Generate:
    """SGLang, whose model runs in a scheduler process of its own."""
    import sglang
    from sglang_cpu import OPTIONS

    llm = sglang.Engine(
        model_path=str(model),
        context_length=CONTEXT,
        max_total_tokens=REQUESTS_AT_ONCE * CONTEXT,
        max_running_requests=REQUESTS_AT_ONCE,
        **OPTIONS,
    )

    def generate(wanted: list[Request], sampling: dict[str, Any]) -> list[list[int]]:
        params = [{"max_new_tokens": each.max_tokens, "ignore_eos": True, **sampling} for each in wanted]
        outputs = llm.generate(input_ids=[request.prompt for request in wanted], sampling_params=params)
        return [list(output["output_ids"]) for output in outputs]

    return generate


ENGINES: dict[str, Callable[[Path], Generate]] = {"vllm": vllm, "sglang": sglang}


def main(engine: str, model: Path, count: int) -> None:
    """Says how many threads compute, once it is ready; then a line a round: seconds by group, greedy tokens."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    import torch

    generate = ENGINES[engine](model)
    print(json.dumps({"threads": torch.get_num_threads()}), file=answers)
    groups = requests(count)
    for _ in sys.stdin:
        answer: dict[str, Any] = {"seconds": {}, "generated": 0}
        for name, wanted in groups.items():
            started = time.perf_counter()
            tokens = generate(wanted, dict(SAMPLINGS[name]))
            answer["seconds"][name] = time.perf_counter() - started
            answer["generated"] += sum(map(len, tokens))
            if name == "greedy":
                answer["greedy"] = tokens
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
