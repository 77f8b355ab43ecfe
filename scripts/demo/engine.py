"""A process that runs vLLM: loads the model, then serves all requests once for every line on its standard input.

Started by server.py. Answers are JSON lines on standard output; whatever the engine prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from traffic import LONGEST_OUTPUT, LONGEST_PROMPT, SAMPLINGS, requests


def main(model: Path, count: int) -> None:
    """Says how many threads compute, once it is ready; then a line a round: seconds by group, greedy tokens."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    import torch
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(
        model=str(model),
        dtype="float32",  # in bfloat16 a last bit that differs can tip a token, and the tokens are compared
        max_model_len=LONGEST_PROMPT + LONGEST_OUTPUT + 16,
        max_num_seqs=8,
        max_num_batched_tokens=256,
        enforce_eager=True,
        enable_prefix_caching=False,  # a repeated round does the same work
        seed=0,
    )
    print(json.dumps({"threads": torch.get_num_threads()}), file=answers)

    groups: list[tuple[str, list[Any], list[Any]]] = []
    for name, wanted in requests(count).items():
        prompts = [TokensPrompt(prompt_token_ids=request.prompt) for request in wanted]
        settings: list[Any] = [
            SamplingParams(max_tokens=request.max_tokens, ignore_eos=True, **SAMPLINGS[name]) for request in wanted
        ]
        groups.append((name, prompts, settings))
    for _ in sys.stdin:
        answer: dict[str, Any] = {"seconds": {}, "generated": 0}
        for name, prompts, settings in groups:
            started = time.perf_counter()
            outputs = llm.generate(prompts, settings, use_tqdm=False)
            answer["seconds"][name] = time.perf_counter() - started
            tokens = [list(output.outputs[0].token_ids) for output in outputs]
            answer["generated"] += sum(map(len, tokens))
            if name == "greedy":
                answer["greedy"] = tokens
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
