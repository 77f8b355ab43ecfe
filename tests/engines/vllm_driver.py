"""Runs a real vLLM in this process through a list of steps and writes what came out: ``vllm_driver.py JOB.json``.

A job is {"model", "eager", "out", "llm": {...}, "steps": [...]}. Steps: {"generate": name, "mark": str, "sampling":
{...}}, {"uninstall": true}, {"objects": name}, {"status": name}, {"wait": seconds}, {"kill_children": true}; the last
ends the job.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import psutil

PROMPTS = ["w5 w6 w7 w8", "w9 w10 w11", "w12 w13 w14 w15 w16 w17 w18"]


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
        except (ImportError, AttributeError):
            if not target.optional:
                raise
    return found


def run(job: dict) -> dict:
    # Importing the hooked modules before the plugin is loaded shows the engine's own objects.
    stock = targets() if job.get("preimport") else {}
    from vllm import LLM, SamplingParams

    started = time.perf_counter()
    llm = LLM(
        model=job["model"],
        dtype="float32",
        max_model_len=128,
        max_num_seqs=4,
        max_num_batched_tokens=128,
        enforce_eager=job["eager"],
        seed=0,
        **job.get("llm", {}),
    )
    results: dict = {"start_s": time.perf_counter() - started}
    for step in job["steps"]:
        if "generate" in step:
            os.environ["FIB_TEST_MARK"] = step.get("mark", "")
            params = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True, **step.get("sampling", {})}
            outputs = llm.generate(step.get("prompts", PROMPTS), SamplingParams(**params), use_tqdm=False)
            results[step["generate"]] = [list(output.outputs[0].token_ids) for output in outputs]
        elif "uninstall" in step:
            from fib_plugin import plugin

            plugin.deactivate()
        elif "objects" in step:
            results[step["objects"]] = {path: found is stock.get(path) for path, found in targets().items()}
        elif "status" in step:
            from fib_plugin import plugin

            active = plugin.active()
            results[step["status"]] = active.runtime.snapshot()["status"] if active else None
        elif "wait" in step:
            time.sleep(step["wait"])
        elif "kill_children" in step:
            Path(job["out"]).write_text(json.dumps(results))
            for child in psutil.Process().children(recursive=True):
                child.kill()
            os._exit(0)
        else:
            raise ValueError(f"unknown step {step}")
        Path(job["out"]).write_text(json.dumps(results))
    return results


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
