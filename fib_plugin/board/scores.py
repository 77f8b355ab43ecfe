"""Scores: what the outcomes say about each solution and author. `fib board` and the agents' feedback read them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from fib_plugin.board.outcomes import Outcome, Outcomes, collect
from fib_plugin.dataset import Measurement, TraceSet
from fib_plugin.schema import Environment, Solution

BASELINE = "engine"
"""Author of the ops that solutions displace: shown, not ranked."""
P_LEVELS = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over some solutions and some (definition, workload) tasks.

    fast_p is taken from KernelBench (Ouyang et al. 2025, arXiv:2502.10517): the share of tasks that are solved
    correctly and at a speedup of at least p. There the speedup is over PyTorch; here it is over the op that the engine
    would run instead, and of several solutions of one author the fastest correct one counts. A task without a correct
    solution counts as 0. Tasks are the workloads on which the displaced op was timed.
    """

    evaluated: int = 0
    """(solution, workload) pairs"""
    correct: int = 0
    tasks: int = 0
    speedup: float | None = None
    """geometric mean over the displaced op, where a correct solution was compared with it"""
    reference_speedup: float | None = None
    """geometric mean over the definition's reference"""
    fast_p: dict[float, float] | None = None
    """None where nothing could be compared"""
    sure: int = 0
    """tasks on which a correct solution is faster than the displaced op by the whole interval of the ratio"""

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "evaluated": self.evaluated,
            "correct": self.correct,
            "tasks": self.tasks,
            "speedup": self.speedup,
            "reference_speedup": self.reference_speedup,
            "fast_p": None if self.fast_p is None else {str(p): share for p, share in self.fast_p.items()},
            "sure": self.sure,
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """Workloads on which a solution failed in one way."""

    status: str
    workloads: int
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"status": self.status, "workloads": self.workloads, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the board: an author, or one of their solutions."""

    author: str
    score: Score
    solution: str | None = None
    solutions: int = 1
    failures: tuple[Failure, ...] = ()
    """of a solution, the most frequent first"""
    timed: tuple[str, ...] = ()
    """of a solution, the ways in which its times were taken"""

    @property
    def is_baseline(self) -> bool:
        return self.author == BASELINE

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        who: dict[str, Any] = {"solution": self.solution} if self.solution else {"solutions": self.solutions}
        if self.timed:
            who["timed"] = list(self.timed)
        if self.failures:
            who["failures"] = [failure.to_dict() for failure in self.failures]
        return {"author": self.author, **who, "baseline": self.is_baseline, **self.score.to_dict()}


@dataclass(frozen=True, slots=True)
class DefinitionScore:
    """One definition: its authors and their solutions, best first."""

    definition: str
    op_type: str
    workloads: int
    tasks: int
    authors: list[Line] = field(default_factory=list)
    solutions: list[Line] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Board:
    """Everything that `fib board` shows."""

    environment: Environment | None
    p: float
    authors: list[Line]
    definitions: list[DefinitionScore]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "environment": None if self.environment is None else self.environment.model_dump(mode="json"),
            "p": self.p,
            "authors": [line.to_dict() for line in self.authors],
            "definitions": [
                {
                    "definition": score.definition,
                    "op_type": score.op_type,
                    "workloads": score.workloads,
                    "tasks": score.tasks,
                    "authors": [line.to_dict() for line in score.authors],
                    "solutions": [line.to_dict() for line in score.solutions],
                }
                for score in self.definitions
            ],
            "notes": self.notes,
        }


def make_board(
    traceset: TraceSet,
    measurements: Iterable[Measurement],
    here: Environment | None = None,
    *,
    definition: str = "*",
    author: str | None = None,
    hardware: str | None = None,
    p: float = 1.0,
    timing: str | None = None,
) -> Board:
    """Score everything in one environment (see `collect`).

    Args:
        definition: a glob over definition names; tasks of others do not count.
        author: only this author's lines, and the baseline's.
        p: the level by which authors and solutions are ranked.
        timing: graph or plain: only ratios that were taken so count.

    >>> board = make_board(traces, load_measurements(traces.root), current_environment())
    >>> [(line.author, line.score.fast_p[1.0]) for line in board.authors]
    """
    outcomes = collect(traceset, measurements, here, hardware, timing)
    names = [name for name in sorted(traceset.definitions) if fnmatchcase(name, definition)]
    levels = sorted({*P_LEVELS, p})
    chosen = {
        name: [s for s in traceset.solutions.get(name, ()) if author is None or s.author in (author, BASELINE)]
        for name in names
    }
    definitions = [_definition_score(traceset, name, chosen[name], outcomes, levels, p) for name in names]
    authors = sorted({solution.author for group in chosen.values() for solution in group})
    lines = []
    for who in authors:
        own = [solution for group in chosen.values() for solution in group if solution.author == who]
        lines.append(Line(who, _score(own, names, outcomes, levels), solutions=len(own)))
    return Board(outcomes.environment, p, _ranked(lines, p), definitions, outcomes.notes)


def _definition_score(
    traceset: TraceSet,
    name: str,
    solutions: Sequence[Solution],
    outcomes: Outcomes,
    levels: Sequence[float],
    p: float,
) -> DefinitionScore:
    authors = []
    for who in sorted({solution.author for solution in solutions}):
        own = [solution for solution in solutions if solution.author == who]
        authors.append(Line(who, _score(own, [name], outcomes, levels), solutions=len(own)))
    each = [
        Line(
            s.author,
            _score([s], [name], outcomes, levels),
            solution=s.name,
            failures=_failures(s, outcomes),
            timed=tuple(sorted({outcome.timed for outcome in outcomes.of(s).values()} - {""})),
        )
        for s in solutions
    ]
    return DefinitionScore(
        definition=name,
        op_type=traceset.definitions[name].op_type,
        workloads=len(traceset.workloads.get(name, ())),
        tasks=len(outcomes.tasks.get(name, ())),
        authors=_ranked(authors, p),
        solutions=_ranked(each, p),
    )


def _failures(solution: Solution, outcomes: Outcomes) -> tuple[Failure, ...]:
    failed = [outcome for outcome in outcomes.of(solution).values() if not outcome.correct]
    counts = Counter(outcome.status for outcome in failed)
    # One reason a status: logs of the same failure differ in their numbers.
    reasons = {outcome.status: outcome.reason for outcome in reversed(failed) if outcome.reason}
    return tuple(Failure(status, count, reasons.get(status, "")) for status, count in counts.most_common())


def _score(
    solutions: Sequence[Solution], definitions: Sequence[str], outcomes: Outcomes, levels: Sequence[float]
) -> Score:
    """The score of some solutions of one author over all tasks of the definitions, attempted or not."""
    results = [(s.definition, workload, o) for s in solutions for workload, o in outcomes.of(s).items()]
    tasks = {(name, workload) for name in definitions for workload in outcomes.tasks.get(name, ())}
    best = _best(results, "ratio")
    compared = {task: ratio for task, ratio in best.items() if task in tasks}
    fast_p = None
    if tasks:
        fast_p = {p: sum(ratio >= p for ratio in compared.values()) / len(tasks) for p in levels}
    return Score(
        evaluated=len(results),
        correct=sum(outcome.correct for _, _, outcome in results),
        tasks=len(tasks),
        speedup=geometric_mean(best.values()),
        reference_speedup=geometric_mean(_best(results, "reference").values()),
        fast_p=fast_p,
        sure=len({(name, workload) for name, workload, outcome in results if outcome.sure} & tasks),
    )


def _best(results: Iterable[tuple[str, str, Outcome]], field_name: str) -> dict[tuple[str, str], float]:
    """The largest speed of a correct outcome for each (definition, workload)."""
    best: dict[tuple[str, str], float] = {}
    for definition, workload, outcome in results:
        value: float | None = getattr(outcome, field_name)
        if outcome.correct and value is not None:
            task = (definition, workload)
            best[task] = max(value, best.get(task, value))
    return best


def geometric_mean(values: Iterable[float]) -> float | None:
    """None for no values; values are positive and finite."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _ranked(lines: Iterable[Line], p: float) -> list[Line]:
    """The baseline first, then by fast_p, then by speedup; what was never compared comes last."""

    def key(line: Line) -> tuple[bool, float, float, float, str, str]:
        score = line.score
        return (
            not line.is_baseline,
            -(score.fast_p[p] if score.fast_p else -1.0),
            -(score.speedup or 0.0),
            -(score.reference_speedup or 0.0),
            line.author,
            line.solution or "",
        )

    return sorted(lines, key=key)
