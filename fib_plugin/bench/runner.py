"""`run_bench`: definitions x solutions x workloads of a dataset, each result written as it arrives."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from fib_plugin import ops
from fib_plugin.bench.case import Case, prepare
from fib_plugin.bench.child import Place, physical_cores
from fib_plugin.bench.examiner import Examiner, Outcome
from fib_plugin.bench.inputs import InputError, InputMaker, fresh_seed
from fib_plugin.bench.reference import BrokenReference, Reference
from fib_plugin.bench.selection import Batch, BenchError, drop_foreign, drop_measured, select, why_nothing
from fib_plugin.build import BuildError, precompile
from fib_plugin.build.builder import ENGINE_AUTHOR
from fib_plugin.dataset import (
    Measurement,
    TraceSet,
    append_measurements,
    current_environment,
    load_measurements,
)
from fib_plugin.judge import Verdict
from fib_plugin.schema import (
    Definition,
    Environment,
    Evaluation,
    EvaluationStatus,
    Performance,
    SchemaError,
    Solution,
    Trace,
    Workload,
    content_hash,
)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One solution on one workload, as it was written to the dataset."""

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


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run reports as it goes: what it is at, a result, or why a workload was left out."""

    done: int
    total: int
    doing: str = ""
    result: BenchResult | None = None
    problem: str = ""


@dataclass(slots=True)
class _Run:
    """State of one run."""

    traceset: TraceSet
    environment: Environment
    progress: Callable[[Progress], None]
    total: int
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    done: int = 0
    results: list[BenchResult] = field(default_factory=list)

    def say(self, doing: str) -> None:
        self.progress(Progress(self.done, self.total, doing))

    def leave_out(self, count: int, problem: str) -> None:
        self.done += count
        self.progress(Progress(self.done, self.total, problem=problem))

    def add(self, result: BenchResult) -> None:
        self.traceset.add_traces([result.trace])
        if self.traceset.root is not None:
            append_measurements(self.traceset.root, result.definition.op_type, [result.measurement])
        self.results.append(result)
        self.done += 1
        self.progress(Progress(self.done, self.total, result=result))


def run_bench(
    traceset: TraceSet,
    definitions: Sequence[str] | None = None,
    solutions: Sequence[str] | None = None,
    workloads: int | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    timeout: float = 60.0,
    *,
    op_type: str | None = None,
    author: str | None = None,
    threads: int | None = None,
    cache: Path | None = None,
) -> list[BenchResult]:
    """Benchmark solutions; traces and measurements are appended to the dataset one by one, so an interrupt keeps them.

    Args:
        traceset: the dataset.
        definitions, solutions: names or globs; None takes all.
        workloads: how many a definition, the most often captured first; None takes all.
        resume: leave out what was measured before: same definition, solution content, workload, environment.
        progress: called with a `Progress` at every step.
        timeout: seconds for one solution on one workload.
        op_type, author: only these.
        threads: CPU threads for reference, displaced op and solution alike; None takes the physical cores.
        cache: build cache; None takes FIB_CACHE_PATH.

    Raises:
        BenchError: nothing matches what was asked.
    """
    import torch

    environment = current_environment()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = list(select(traceset, definitions, solutions, workloads, op_type, author))
    if not batches:
        raise BenchError(why_nothing(traceset, definitions, solutions, op_type, author))
    foreign = drop_foreign(batches, device)
    if resume and traceset.root is not None:
        drop_measured(batches, load_measurements(traceset.root), environment)
    total = sum(len(solutions) for batch in batches for _, solutions in batch.jobs)
    run = _Run(traceset, environment, progress or (lambda _: None), total)
    if foreign:
        names = ", ".join(sorted(foreign)[:3]) + (", ..." if len(foreign) > 3 else "")
        run.leave_out(0, f"{len(foreign)} solutions for other hardware than this host's {device}: {names}")
    place = Place(device, threads or physical_cores(), _cache(cache))
    broken = _precompile(batches, place.cache, run)
    before = torch.get_num_threads()
    torch.set_num_threads(place.threads)
    try:
        with Examiner(place, timeout) as examiner:
            maker = InputMaker(traceset.root, fresh_seed())
            for batch in batches:
                _bench_definition(batch, examiner, maker, broken, run)
    finally:
        torch.set_num_threads(before)
    return run.results


def _bench_definition(
    batch: Batch, examiner: Examiner, maker: InputMaker, broken: dict[str, BuildError], run: _Run
) -> None:
    definition = batch.definition
    reference: Reference | None = None
    try:
        config = ops.evaluation_config(definition, run.traceset.root)
    except SchemaError as error:
        run.leave_out(sum(len(solutions) for _, solutions in batch.jobs), str(error))
        return
    for workload, solutions in batch.jobs:
        if not solutions:
            continue
        run.say(f"{definition.name} {_short_axes(workload)}: inputs and reference")
        try:
            reference = reference or Reference(definition)
            case = prepare(definition, workload, maker, reference, config)
        except (InputError, BrokenReference) as error:
            run.leave_out(len(solutions), str(error))
            continue
        displaced = list(batch.displaced)
        try:
            for solution in solutions:
                run.say(f"{definition.name} {_short_axes(workload)}: {solution.name}")
                outcome = _examine(case, solution, displaced, examiner, broken)
                if solution in displaced and outcome.solution_ms is None:
                    displaced.remove(solution)  # it does not run here, so there is nothing to compare with
                run.add(_result(case, solution, outcome, run))
        finally:
            case.close()


def _examine(
    case: Case, solution: Solution, displaced: Sequence[Solution], examiner: Examiner, broken: dict[str, BuildError]
) -> Outcome:
    failure = broken.get(content_hash(solution))
    if failure is not None:
        return Outcome(Verdict(EvaluationStatus.COMPILE_ERROR, log=str(failure)))
    return examiner.examine(case, solution, () if solution.author == ENGINE_AUTHOR else displaced)


def _result(case: Case, solution: Solution, outcome: Outcome, run: _Run) -> BenchResult:
    verdict, timestamp = outcome.verdict, datetime.now(timezone.utc).isoformat()
    performance = None
    if verdict.passed:
        assert outcome.solution_ms is not None
        speedup = case.reference_ms / outcome.solution_ms
        performance = Performance(
            latency_ms=outcome.solution_ms, reference_latency_ms=case.reference_ms, speedup_factor=speedup
        )
    evaluation = Evaluation(
        status=verdict.status,
        environment=run.environment,
        timestamp=timestamp,
        log=verdict.log,
        correctness=verdict.correctness,
        performance=performance,
    )
    trace = Trace(
        definition=case.definition.name, workload=case.workload, solution=solution.name, evaluation=evaluation
    )
    return BenchResult(
        case.definition, case.workload, solution, trace, _measurement(case, solution, outcome, run, timestamp)
    )


def _measurement(case: Case, solution: Solution, outcome: Outcome, run: _Run, timestamp: str) -> Measurement:
    baseline, compared, own_ms = outcome.baseline, outcome.ratio, outcome.solution_ms
    baseline_ms = ratio = ratio_low = None
    if compared is not None:
        baseline_ms, ratio, ratio_low = compared.baseline_ms, compared.value, compared.low
    elif own_ms is not None and solution.author == ENGINE_AUTHOR:
        baseline, baseline_ms, ratio, ratio_low = solution, own_ms, 1.0, 1.0
    elif own_ms is not None:
        ratio = ratio_low = 0.0  # nothing to beat is no win
    return Measurement(
        run=run.name,
        definition=case.definition.name,
        axes=dict(case.workload.axes),
        workload=case.workload.uuid,
        solution=solution.name,
        solution_hash=content_hash(solution),
        baseline=baseline.name if baseline else "",
        baseline_hash=content_hash(baseline) if baseline else "",
        status=outcome.verdict.status.value,
        solution_ms=own_ms,
        baseline_ms=baseline_ms,
        ratio=ratio,
        ratio_low=ratio_low,
        hardware=run.environment.hardware,
        libs=dict(run.environment.libs),
        timestamp=timestamp,
    )


def _precompile(batches: Sequence[Batch], cache: Path, run: _Run) -> dict[str, BuildError]:
    """Compile everything up front, on all cores: later they are for timing. Failures by content hash.

    What failed before is tried again: whoever benchmarks may have mended the toolchain.
    """
    wanted = {content_hash(s): s for batch in batches for _, chosen in batch.jobs for s in chosen}
    compiled = {key: s for key, s in wanted.items() if s.spec.language.value in ("cpp", "cuda")}
    broken: dict[str, BuildError] = {}
    if not compiled:
        return broken
    pool = ThreadPoolExecutor(max_workers=physical_cores())
    try:
        futures = {key: pool.submit(precompile, solution, cache, retry=True) for key, solution in compiled.items()}
        for index, (key, future) in enumerate(futures.items()):
            run.say(f"compiling {index + 1} of {len(futures)}: {compiled[key].name}")
            try:
                future.result()
            except BuildError as error:
                broken[key] = error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return broken


def _cache(cache: Path | None) -> Path:
    if cache is not None:
        return cache
    from fib_plugin import settings

    return settings.load().cache_path


def _short_axes(workload: Workload) -> str:
    return " ".join(f"{axis}={size}" for axis, size in workload.axes.items())
