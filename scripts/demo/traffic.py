"""The demo's requests: lengths of real ones, scaled down to the tiny model; prompts are the same at every run."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXCERPT = Path(__file__).parents[1] / "data" / "azure_llm_2023_excerpt.csv"

#: The samplings that requests ask for. Each is served as a group, so that each of vLLM's sampling ops is met.
SAMPLINGS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "top-k": {"temperature": 0.8, "top_k": 20},
    "top-p": {"temperature": 0.8, "top_p": 0.9},
    "top-k and top-p": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
}
VOCABULARY = 512
LONGEST_PROMPT, LONGEST_OUTPUT = 192, 48
_PROMPT_SCALE, _OUTPUT_SCALE, _SHORTEST = 16, 8, 4


@dataclass(frozen=True, slots=True)
class Request:
    """Token ids to send and how many to generate; the end of sequence is ignored, so that every run does equal work."""

    prompt: list[int]
    max_tokens: int


def requests(count: int) -> dict[str, list[Request]]:
    """``count`` requests by sampling: every second one is greedy, the others take turns."""
    with EXCERPT.open(newline="") as file:
        rows = list(csv.DictReader(file))
    turns = ["greedy", "top-k", "greedy", "top-p", "greedy", "top-k and top-p"]
    groups: dict[str, list[Request]] = {name: [] for name in SAMPLINGS}
    words = random.Random(0)
    for number in range(count):
        row = rows[number * len(rows) // count]
        length = _scaled(row["ContextTokens"], _PROMPT_SCALE, LONGEST_PROMPT)
        prompt = [words.randrange(3, VOCABULARY) for _ in range(length)]
        wanted = _scaled(row["GeneratedTokens"], _OUTPUT_SCALE, LONGEST_OUTPUT)
        groups[turns[number % len(turns)]].append(Request(prompt, wanted))
    return groups


def _scaled(tokens: str, scale: int, longest: int) -> int:
    return min(longest, max(_SHORTEST, int(tokens) // scale))
