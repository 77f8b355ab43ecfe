"""What the demo came to, read from the dataset, the status files and the answers: nothing here is assumed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server import Server

from fib_plugin.dataset import Measurement, load_measurements
from fib_plugin.settings import Settings


@dataclass(frozen=True, slots=True)
class Substitution:
    """A definition of which calls were answered by a solution, and what had been measured for it."""

    op: str
    definition: str
    solutions: list[str]
    calls: int
    substituted: int
    ratios: list[float]


@dataclass(frozen=True, slots=True)
class Answers:
    """Greedy tokens of one engine against stock ones: the round that agreed least."""

    name: str
    same: int
    total: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that the last section shows."""

    proven: int
    measured: int
    substitutions: list[Substitution]
    answers: list[Answers]

    @property
    def failures(self) -> list[str]:
        """Why the loop did not close; empty if it did."""
        found = []
        if not self.proven:
            found.append("no solution was proven faster than the op it would displace")
        if not self.substitutions:
            found.append("no call was substituted; the status above says why")
        found.extend(
            f"{each.total - each.same} of {each.total} greedy tokens differ with {each.name} on"
            for each in self.answers
            if each.same != each.total
        )
        return found


def compare(dataset: Path, cache: Path, stock: Server, others: Sequence[Server]) -> Outcome:
    """Judges what the servers left."""
    latest: dict[tuple[str, str, str], Measurement] = {}
    for measurement in load_measurements(dataset):
        if measurement.baseline and measurement.baseline != measurement.solution:
            latest[measurement.definition, measurement.solution, measurement.workload] = measurement
    margin = 1 + Settings.model_fields["apply_margin"].default
    faster = [m for m in latest.values() if m.status == "PASSED" and m.ratio_low is not None and m.ratio_low > margin]
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for m in faster:
        if m.ratio is not None:
            ratios[m.definition, m.solution].append(m.ratio)
    return Outcome(
        proven=len({(m.definition, m.solution) for m in faster}),
        measured=len({(m.definition, m.solution) for m in latest.values()}),
        substitutions=_substitutions(cache, ratios),
        answers=[_answers(stock, other) for other in others],
    )


def _substitutions(cache: Path, ratios: dict[tuple[str, str], list[float]]) -> list[Substitution]:
    """From the status of the processes that ran last: the ones with apply on."""
    command = [sys.executable, "-m", "fib_plugin", "status", "--json", "--cache", str(cache)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FIB_")}
    told = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = []
    for op, counts in json.loads(told)["ops"].items():
        for definition, served in counts["definitions"].items():
            if served["substituted"]:
                names = served["solutions"]
                values = [ratio for name in names for ratio in ratios.get((definition, name), [])]
                found.append(Substitution(op, definition, names, served["calls"], served["substituted"], values))
    return found


def _answers(stock: Server, other: Server) -> Answers:
    expected = [token for tokens in stock.rounds[0].greedy for token in tokens]
    agreeing = []
    for made in other.rounds:
        got = [token for tokens in made.greedy for token in tokens]
        agreeing.append(sum(ours == theirs for ours, theirs in zip(expected, got, strict=True)))
    return Answers(other.name, min(agreeing), len(expected), len(other.rounds))


def spread(ratios: Sequence[float]) -> str:
    """A few measured ratios in one cell: the median, and between which they lie."""
    if not ratios:
        return "-"
    middle = f"{statistics.median(ratios):.2f}x"
    return middle if len(ratios) == 1 else f"{middle} ({min(ratios):.2f}-{max(ratios):.2f}, {len(ratios)} workloads)"
