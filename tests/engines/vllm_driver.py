"""Runs a real vLLM in this process through a list of steps and writes what came out: ``vllm_driver.py JOB.json``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps import drive


def targets() -> dict[str, object]:
    """Every vLLM target for the installed version right now; backends that need a GPU's libraries are left out."""
    from importlib import import_module

    from fib_plugin.adapters.vllm import ADAPTERS

    from fib_plugin.adapter import supports
    from fib_plugin.patch import locate

    found = {}
    for target in (t for a in ADAPTERS for t in a.targets if supports(a.engine, t) is None):
        try:
            found[target.path] = locate(import_module(target.module), target.attribute)[2]
        except Exception:  # a module that asks for a device may fail in any way
            if not target.optional:
                raise
    return found


def let_kept_graphs_load() -> None:
    """Of what vLLM 0.32 kept for a CPU it asks what only a GPU's graphs have, and compiles again when that fails."""
    import torch

    load = torch.compiler.load_compiled_function

    def load_compiled_function(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        graph = loaded._artifacts.compiled_fn
        if not hasattr(graph, "finalize_loading"):
            graph.finalize_loading = lambda config: None
        return loaded

    torch.compiler.load_compiled_function = load_compiled_function


class Vllm:
    """See steps.Driven."""

    def __init__(self, job: dict[str, Any], stock: dict[str, object]) -> None:
        from vllm import LLM

        if "fp8" in Path(job["model"]).name:
            from stand_ins.vllm_fp8 import install

            install()
        self.stock = stock
        self.llm = LLM(
            model=job["model"],
            # Layers in fp8 have no activations in float32.
            dtype="bfloat16" if "fp8" in Path(job["model"]).name else "float32",
            max_model_len=128,
            max_num_seqs=4,
            max_num_batched_tokens=128,
            enforce_eager=job["eager"],
            seed=0,
            **job.get("llm", {}),
        )

    def generate(self, prompts: Sequence[list[int]], samplings: Sequence[dict[str, Any]]) -> list[list[int]]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        params = [SamplingParams(max_tokens=8, ignore_eos=True, **sampling) for sampling in samplings]
        given = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        outputs = self.llm.generate(given, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    def mark(self, mark: str) -> None:
        os.environ["FIB_TEST_MARK"] = mark

    def uninstall(self) -> None:
        from fib_plugin import plugin

        plugin.deactivate()

    def objects(self) -> dict[str, bool]:
        return {path: found is self.stock.get(path) for path, found in targets().items()}

    def status(self) -> dict[str, Any] | None:
        from fib_plugin import plugin

        active = plugin.active()
        return active.runtime.snapshot()["status"] if active else None


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    # Importing the hooked modules before the plugin is loaded shows the engine's own objects.
    stock = targets() if job.get("preimport") else {}
    if os.environ.get("FIB_TEST_LOAD_KEPT"):
        let_kept_graphs_load()
    started = time.perf_counter()
    vllm = Vllm(job, stock)
    drive(vllm, job, {"start_s": time.perf_counter() - started})
