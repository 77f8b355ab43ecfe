"""Outcomes: the latest word on each (solution, workload), from traces and measurements of one environment."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from fib_plugin.dataset import Measurement, TraceSet, compatible
from fib_plugin.dataset.measurements import LIVE, moment
from fib_plugin.schema import Environment, EvaluationStatus, Solution, Trace, content_hash

PASSED = EvaluationStatus.PASSED.value
#: Below it, a log has what the solution printed.
_OUTPUT = "--- output ---"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one solution did on one workload. A speed that was not measured, or makes no sense, is None."""

    status: str
    ratio: float | None = None
    """time of the displaced op / time of the solution"""
    reference: float | None = None
    """time of the definition's reference / time of the solution"""
    reason: str = ""
    """why it failed, in a line, where a trace says so"""
    sure: bool = False
    """whether the whole interval of the ratio is above 1, and nothing casts doubt on it"""
    timed: str = ""
    """how the times were taken, such as ``graph, cold``; empty where that is not on record"""

    @property
    def correct(self) -> bool:
        return self.status == PASSED


@dataclass(slots=True)
class Outcomes:
    """By definition, solution and workload, in one environment."""

    environment: Environment | None = None
    by_solution: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    tasks: dict[str, set[str]] = field(default_factory=dict)
    """definition -> workloads on which the displaced op was timed, so that a solution can be compared"""
    notes: list[str] = field(default_factory=list)

    def of(self, solution: Solution) -> dict[str, Outcome]:
        """workload uuid -> outcome"""
        return self.by_solution.get(solution.name, {})


def collect(
    traceset: TraceSet,
    measurements: Iterable[Measurement],
    here: Environment | None = None,
    hardware: str | None = None,
    timing: str | None = None,
) -> Outcomes:
    """The latest outcomes in one environment.

    The environment is `here` if anything was measured in one compatible with it, else that of the newest measurement
    (or trace). Numbers of different machines are never mixed. A measurement of other source than the solution has now
    does not count.

    Args:
        hardware: a glob; only measurements and traces from hardware of that name are looked at.
        timing: graph or plain; ratios that were taken the other way are left out, their verdicts are not.
    """
    # What probation found inside an engine is about sizes that not everybody was asked to solve.
    measured = [m for m in measurements if m.source != LIVE and (hardware is None or fnmatchcase(m.hardware, hardware))]
    traces = [
        trace
        for group in traceset.traces.values()
        for trace in group
        if trace.evaluation is not None
        and not trace.workload.uuid.startswith(f"{LIVE}-")
        and (hardware is None or fnmatchcase(trace.evaluation.environment.hardware, hardware))
    ]
    outcomes = Outcomes(environment=_choose(measured, traces, here))
    known = {solution.name: solution for group in traceset.solutions.values() for solution in group}
    left_out: Counter[str] = Counter()
    _add_traces(outcomes, traces, known, left_out)
    _add_measurements(outcomes, measured, known, left_out, timing)
    outcomes.notes.extend(f"{count} {what}" for what, count in sorted(left_out.items()))
    return outcomes


def speed(value: float | None) -> float | None:
    """A ratio that can be compared and averaged, else None."""
    return value if value is not None and math.isfinite(value) and value > 0 else None


def reason(log: str) -> str:
    """The line of a log that says most: a traceback's last, a compiler's first error, else the first."""
    lines = [line.strip() for line in log.split(_OUTPUT)[0].splitlines() if line.strip()]
    if not lines:
        return ""
    if any(line.startswith("Traceback (") for line in lines):
        return lines[-1]
    if lines[0].endswith(":") and len(lines) > 1:
        return f"{lines[0]} {lines[1]}"
    return next((line for line in lines if " error: " in line), lines[0])


def _choose(measured: list[Measurement], traces: list[Trace], here: Environment | None) -> Environment | None:
    found = [(moment(m.timestamp), Environment(hardware=m.hardware, libs=m.libs)) for m in measured]
    if not found:
        evaluations = (trace.evaluation for trace in traces)
        found = [(moment(e.timestamp), e.environment) for e in evaluations if e is not None]
    if here is not None and any(compatible(here, environment) is None for _, environment in found):
        return here
    return max(found, key=lambda item: item[0])[1] if found else None


def _elsewhere(environment: Environment | None) -> Callable[[Environment], bool]:
    """Whether an environment is another one than the board's. Answers are kept: few differ among many records."""
    answers: dict[tuple[str, tuple[tuple[str, str], ...]], bool] = {}

    def differs(other: Environment) -> bool:
        key = (other.hardware, tuple(sorted(other.libs.items())))
        if key not in answers:
            answers[key] = environment is None or compatible(environment, other) is not None
        return answers[key]

    return differs


def _add_traces(outcomes: Outcomes, traces: list[Trace], known: dict[str, Solution], left_out: Counter[str]) -> None:
    elsewhere = _elsewhere(outcomes.environment)
    for trace in sorted(traces, key=lambda trace: moment(trace.evaluation.timestamp if trace.evaluation else "")):
        evaluation = trace.evaluation
        assert evaluation is not None
        if trace.solution not in known or known[trace.solution].definition != trace.definition:
            left_out["traces of solutions that are not in the dataset"] += 1
        elif elsewhere(evaluation.environment):
            left_out["traces from other hardware or library versions"] += 1
        else:
            performance = evaluation.performance
            outcomes.by_solution.setdefault(trace.solution, {})[trace.workload.uuid] = Outcome(
                evaluation.status.value,
                reference=speed(performance.speedup_factor) if performance else None,
                reason="" if evaluation.status.value == PASSED else reason(evaluation.log),
            )


def _add_measurements(
    outcomes: Outcomes,
    measured: list[Measurement],
    known: dict[str, Solution],
    left_out: Counter[str],
    timing: str | None,
) -> None:
    elsewhere = _elsewhere(outcomes.environment)
    hashes = {name: content_hash(solution) for name, solution in known.items()}
    stale: set[tuple[str, str]] = set()
    for m in sorted(measured, key=lambda m: moment(m.timestamp)):
        if elsewhere(Environment(hardware=m.hardware, libs=m.libs)):
            left_out["measurements from other hardware or library versions"] += 1
            continue
        wanted = timing is None or m.timing == timing
        compared = wanted and bool(m.baseline) and speed(m.baseline_ms) is not None
        if compared:
            outcomes.tasks.setdefault(m.definition, set()).add(m.workload)
        if m.solution not in known or known[m.solution].definition != m.definition:
            left_out["measurements of solutions that are not in the dataset"] += 1
            continue
        if hashes[m.solution] != m.solution_hash:
            left_out["measurements of earlier versions of solutions"] += 1
            stale.add((m.solution, m.workload))
            continue
        stale.discard((m.solution, m.workload))
        of_solution = outcomes.by_solution.setdefault(m.solution, {})
        before = of_solution.get(m.workload, Outcome(m.status))
        passed = m.status == PASSED
        if wanted or not passed:  # else the last ratio of the wanted timing stays
            before = replace(
                before,
                ratio=speed(m.ratio) if passed and compared else None,
                sure=passed and compared and not m.doubt and (m.ratio_low or 0.0) > 1.0,
                timed=", ".join(filter(None, (m.timing, m.cache))) if wanted else "",
            )
        of_solution[m.workload] = replace(
            before,
            status=m.status,
            reference=before.reference if passed else None,
            reason=before.reason if before.status == m.status else "",
        )
    for name, workload in stale:
        # The trace that belongs to a measurement of earlier source says nothing about the present one either.
        outcomes.by_solution.get(name, {}).pop(workload, None)
