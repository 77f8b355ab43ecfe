"""Runs a real SGLang through a list of steps and writes what came out: ``sglang_driver.py JOB.json``.

Its scheduler, in which the model runs, is a process of its own; scripts/sglang_probe.py reaches into it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sglang_cpu import OPTIONS
from sglang_probe import ask
from steps import drive


class Sglang:
    """See steps.Driven."""

    def __init__(self, job: dict[str, Any]) -> None:
        import sglang

        self.engine = sglang.Engine(
            model_path=job["model"],
            disable_overlap_schedule=True,
            context_length=256,
            max_total_tokens=1024,
            max_running_requests=4,
            **OPTIONS,
            **job.get("llm", {}),
        )

    def generate(self, prompts: Sequence[list[int]], samplings: Sequence[dict[str, Any]]) -> list[list[int]]:
        params = [{"max_new_tokens": 8, "ignore_eos": True, **_named(sampling)} for sampling in samplings]
        outputs = self.engine.generate(input_ids=list(prompts), sampling_params=params)
        return [list(output["output_ids"]) for output in outputs]

    def mark(self, mark: str) -> None:
        ask(self.engine, "mark", mark)

    def uninstall(self) -> None:
        ask(self.engine, "uninstall")

    def objects(self) -> dict[str, bool]:
        found: dict[str, bool] = ask(self.engine, "objects")
        return found

    def status(self) -> dict[str, Any] | None:
        snapshot = ask(self.engine, "snapshot")
        return None if snapshot is None else snapshot["status"]


def _named(sampling: dict[str, Any]) -> dict[str, Any]:
    return {{"seed": "sampling_seed"}.get(name, name): value for name, value in sampling.items()}


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    started = time.perf_counter()
    engine = Sglang(job)
    drive(engine, job, {"start_s": time.perf_counter() - started})
    engine.engine.shutdown()
