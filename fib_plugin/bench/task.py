"""Task: what a device does at a time, and what comes out of it, in the order in which it comes."""

from __future__ import annotations

from dataclasses import dataclass

from fib_plugin.bench.results import BenchResult
from fib_plugin.ops import EvaluationConfig
from fib_plugin.schema import Definition, Solution, Workload


@dataclass(slots=True)
class Task:
    """One workload, and the solutions to run on it. Those of equal content are run once."""

    definition: Definition
    workload: Workload
    solutions: list[Solution]
    displaced: list[Solution]
    config: EvaluationConfig


@dataclass(frozen=True, slots=True)
class LeftOut:
    """So many evaluations will not come; an empty ``why`` says that there was no time for them."""

    count: int
    why: str


#: A word on what is done, a result, or something left out.
Found = str | BenchResult | LeftOut
