"""What the drivers of real engines do with a job: the same steps for every engine.

A job is {"model", "eager", "out", "steps": [...], ...}. Steps: {"generate": name, "mark": str, "sampling": {...} or one
for each prompt, "prompts": [...]}, {"uninstall": true}, {"objects": name}, {"status": name}, {"wait": seconds},
{"kill_children": true}; the last ends the job.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

PROMPTS = ["w5 w6 w7 w8", "w9 w10 w11", "w12 w13 w14 w15 w16 w17 w18"]
GREEDY = {"temperature": 0.0}


def token_ids(prompt: str) -> list[int]:
    """``w12`` is token 12; no tokenizer is asked, since those of engines may differ."""
    return [int(word[1:]) for word in prompt.split()]


class Driven(Protocol):
    """A running engine."""

    def generate(self, prompts: Sequence[list[int]], samplings: Sequence[dict[str, Any]]) -> list[list[int]]:
        """The eight tokens after each prompt."""

    def mark(self, mark: str) -> None:
        """Sets FIB_TEST_MARK where the model runs."""

    def uninstall(self) -> None:
        """Takes the plugin out where the model runs."""

    def objects(self) -> dict[str, bool]:
        """By hooked function: whether it is the engine's own."""

    def status(self) -> dict[str, Any] | None:
        """What `fib status` would show of the process in which the model runs."""


def drive(engine: Driven, job: dict[str, Any], results: dict[str, Any]) -> None:
    """Takes the steps one after the other; what is known so far is written after each."""
    for step in job["steps"]:
        if "generate" in step:
            prompts = step.get("prompts", PROMPTS)
            sampling = step.get("sampling", {})
            each = sampling if isinstance(sampling, list) else [sampling] * len(prompts)
            engine.mark(step.get("mark", ""))
            results[step["generate"]] = engine.generate(list(map(token_ids, prompts)), [{**GREEDY, **s} for s in each])
        elif "uninstall" in step:
            engine.uninstall()
        elif "objects" in step:
            results[step["objects"]] = engine.objects()
        elif "status" in step:
            results[step["status"]] = engine.status()
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
