"""What comes out of one solution on one workload: the trace and the measurement that are written to the dataset."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timezone

import msgspec

from fib_plugin.bench.cache import Cache
from fib_plugin.bench.case import Case
from fib_plugin.bench.examiner import Outcome
from fib_plugin.bench.roofline import Roofline
from fib_plugin.dataset import Measurement
from fib_plugin.ops import EvaluationConfig
from fib_plugin.schema import (
    Definition,
    Environment,
    Evaluation,
    EvaluationStatus,
    Performance,
    Solution,
    Trace,
    Workload,
    content_hash,
)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One solution on one workload, as it is written to the dataset."""

    definition: Definition
    workload: Workload
    solution: Solution
    trace: Trace
    measurement: Measurement

    @property
    def status(self) -> EvaluationStatus:
        assert self.trace.evaluation is not None
        return self.trace.evaluation.status

    @property
    def log(self) -> str:
        assert self.trace.evaluation is not None
        return self.trace.evaluation.log

    def named(self, solution: Solution) -> BenchResult:
        """The same result for a solution of the same content under another name."""
        trace = self.trace.model_copy(update={"solution": solution.name})
        measurement = msgspec.structs.replace(self.measurement, solution=solution.name)
        return dataclasses.replace(self, solution=solution, trace=trace, measurement=measurement)


def evaluation_hash(config: EvaluationConfig) -> str:
    """Names how a solution was judged: another tolerance or evaluator gives another hash."""
    content = json.dumps(dataclasses.asdict(config), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def why_doubted(cache: Cache, outcome: Outcome) -> str:
    """Why a ratio proves no win, whatever its interval says: what to do about it is part of the words."""
    if outcome.conditions.throttled:
        said = ", ".join(outcome.conditions.throttled)
        return f"the device was throttled meanwhile ({said}): let it cool, or raise its limit, and run it again"
    if cache.asked:
        return "timed with a warm cache, as was asked; in an engine it is cold: run it again without --warm"
    return ""


def make_result(
    case: Case,
    solution: Solution,
    outcome: Outcome,
    environment: Environment,
    run: str,
    yardstick: bool,
    roof: Roofline | None = None,
) -> BenchResult:
    """``yardstick``: the solution is itself the op that others would displace."""
    verdict, timestamp = outcome.verdict, datetime.now(timezone.utc).isoformat()
    performance = None
    if verdict.passed:
        assert outcome.solution_ms is not None
        performance = Performance(
            latency_ms=outcome.solution_ms,
            reference_latency_ms=case.reference_ms,
            speedup_factor=case.reference_ms / outcome.solution_ms,
        )
    evaluation = Evaluation(
        status=verdict.status,
        environment=environment,
        timestamp=timestamp,
        log=verdict.log,
        correctness=verdict.correctness,
        performance=performance,
    )
    trace = Trace(
        definition=case.definition.name, workload=case.workload, solution=solution.name, evaluation=evaluation
    )
    baseline, compared, own_ms = outcome.baseline, outcome.ratio, outcome.solution_ms
    baseline_ms = ratio = ratio_low = ratio_high = None
    if compared is not None:
        baseline_ms, ratio, ratio_low = compared.baseline_ms, compared.value, compared.low
        ratio_high = compared.high
    elif own_ms is not None and yardstick:
        baseline, baseline_ms, ratio, ratio_low = solution, own_ms, 1.0, 1.0
        ratio_high = 1.0
    elif own_ms is not None:
        ratio = ratio_low = ratio_high = 0.0  # nothing to beat is no win
    doubt = why_doubted(case.cache, outcome) if compared is not None else ""
    if doubt:
        ratio_low = 0.0
    measurement = Measurement(
        run=run,
        definition=case.definition.name,
        axes=dict(case.workload.axes),
        workload=case.workload.uuid,
        solution=solution.name,
        solution_hash=content_hash(solution),
        baseline=baseline.name if baseline else "",
        baseline_hash=content_hash(baseline) if baseline else "",
        status=verdict.status.value,
        solution_ms=own_ms,
        baseline_ms=baseline_ms,
        ratio=ratio,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        hardware=environment.hardware,
        libs=dict(environment.libs),
        timestamp=timestamp,
        evaluation=evaluation_hash(case.config),
        roof_ms=roof.roof_ms if roof is not None else None,
        bound=roof.bound if roof is not None else "",
        timing=outcome.timing,
        cache=case.cache.state if own_ms is not None else "",
        conditions=outcome.conditions if own_ms is not None else None,
        doubt=doubt,
        baseline_setup_ms=outcome.baseline_setup_ms,
        device_ms=outcome.device_ms,
        launches=outcome.launches,
    )
    return BenchResult(case.definition, case.workload, solution, trace, measurement)
