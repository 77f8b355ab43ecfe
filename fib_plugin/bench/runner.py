"""`run_bench`: definitions x solutions x workloads of a dataset, each result written as it arrives."""

from __future__ import annotations

import functools
import math
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fib_plugin import ops
from fib_plugin.bench.case import Case, prepare
from fib_plugin.bench.child import Place, physical_cores
from fib_plugin.bench.devices import host_devices, spread
from fib_plugin.bench.examiner import Examiner, Outcome
from fib_plugin.bench.inputs import InputError, InputMaker, fresh_seed
from fib_plugin.bench.reference import BrokenReference, Reference
from fib_plugin.bench.results import BenchResult, evaluation_hash, make_result
from fib_plugin.bench.selection import Batch, BenchError, drop_foreign, drop_measured, select, why_nothing
from fib_plugin.build import BuildError, precompile
from fib_plugin.build.builder import ENGINE_AUTHOR
from fib_plugin.dataset import TraceSet, append_measurements, current_environment, load_measurements
from fib_plugin.judge import Verdict
from fib_plugin.schema import Definition, Environment, EvaluationStatus, SchemaError, Solution, Workload, content_hash


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run reports as it goes: what it is at, a result, or why a workload was left out."""

    done: int
    total: int
    doing: str = ""
    result: BenchResult | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _LeftOut:
    count: int
    why: str


#: What working on a task gives, in the order in which it comes: a word on what is done, a result, something left out.
_Found = str | BenchResult | _LeftOut
_Tell = Callable[[_Found], None]


@dataclass(slots=True)
class _Task:
    """One workload, and the solutions to run on it. Those of equal content are run once."""

    definition: Definition
    workload: Workload
    solutions: list[Solution]
    displaced: list[Solution]
    config: ops.EvaluationConfig


@dataclass(slots=True)
class _Run:
    """State of one run; its one writer."""

    traceset: TraceSet
    environment: Environment
    progress: Callable[[Progress], None]
    total: int
    save: bool
    stop_at: float
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    done: int = 0
    unstarted: int = 0
    results: list[BenchResult] = field(default_factory=list)

    def take(self, found: _Found) -> None:
        if isinstance(found, str):
            self.progress(Progress(self.done, self.total, found))
        elif isinstance(found, BenchResult):
            self._add(found)
        elif found.why:
            self.done += found.count
            self.progress(Progress(self.done, self.total, problem=found.why))
        else:
            self.unstarted += found.count

    def _add(self, result: BenchResult) -> None:
        if self.save:
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
    candidates: Sequence[Solution] | None = None,
    save: bool = True,
    budget: float | None = None,
    devices: Sequence[str] | None = None,
) -> list[BenchResult]:
    """Benchmark solutions; traces and measurements are appended to the dataset one by one, so an interrupt keeps them.

    Args:
        traceset: the dataset.
        definitions, solutions: names or globs; None takes all.
        workloads: how many a definition, the most often captured first; None takes all.
        resume: leave out what was measured before: same definition, solution content, workload, environment and
            evaluation config.
        progress: called with a `Progress` at every step.
        timeout: seconds for one solution on one workload.
        op_type, author: only these.
        threads: CPU threads for reference, displaced op and solution alike; None takes the physical cores.
        cache: build cache; None takes FIB_CACHE_PATH.
        candidates: run these, which need not be in the dataset, instead of the dataset's solutions.
        save: whether results are written to the dataset.
        budget: seconds after which nothing new is started.
        devices: run on these at once; None takes all CUDA devices of the host, or the CPU.

    Raises:
        BenchError: nothing matches what was asked.
    """
    import torch

    environment = current_environment()
    devices = list(devices or host_devices())
    batches = list(select(traceset, definitions, solutions, workloads, op_type, author, candidates))
    if not batches:
        raise BenchError(why_nothing(traceset, definitions, solutions, op_type, author))
    foreign = drop_foreign(batches, devices[0].split(":")[0])
    configs, unusable = _configs(batches, traceset)
    if resume and traceset.root is not None:
        judged_by = {name: evaluation_hash(config) for name, config in configs.items()}
        drop_measured(batches, load_measurements(traceset.root), environment, judged_by)
    total = sum(len(solutions) for batch in batches for _, solutions in batch.jobs)
    stop_at = time.monotonic() + (math.inf if budget is None else budget)
    run = _Run(traceset, environment, progress or (lambda _: None), total, save, stop_at)
    if foreign:
        names = ", ".join(sorted(foreign)[:3]) + (", ..." if len(foreign) > 3 else "")
        run.take(_LeftOut(0, f"{len(foreign)} solutions for other hardware than this host's {devices[0]}: {names}"))
    for name, why in unusable.items():
        lost = sum(len(chosen) for batch in batches if batch.definition.name == name for _, chosen in batch.jobs)
        run.take(_LeftOut(lost, why))
    tasks = [
        _Task(batch.definition, workload, chosen, list(batch.displaced), configs[batch.definition.name])
        for batch in batches
        for workload, chosen in batch.jobs
        if chosen and batch.definition.name in configs
    ]
    places = [Place(device, threads or physical_cores(), _cache(cache)) for device in devices]
    broken = _precompile(batches, places[0].cache, run)
    before = torch.get_num_threads()
    torch.set_num_threads(places[0].threads)
    try:
        _work_off(tasks, [_Desk(place, timeout, broken, run) for place in places], run)
    finally:
        torch.set_num_threads(before)
    if run.unstarted:
        why = f"{run.unstarted} evaluations: the budget of {budget:g} s was spent (continue with --resume)"
        run.take(_LeftOut(run.unstarted, why))
    return run.results


def _configs(batches: Sequence[Batch], traceset: TraceSet) -> tuple[dict[str, ops.EvaluationConfig], dict[str, str]]:
    """How each definition is judged, and why some cannot be."""
    configs, unusable = {}, {}
    for definition in (batch.definition for batch in batches):
        try:
            configs[definition.name] = ops.evaluation_config(definition, traceset.root)
        except SchemaError as error:
            unusable[definition.name] = str(error)
    return configs, unusable


def _work_off(tasks: Sequence[_Task], desks: Sequence[_Desk], run: _Run) -> None:
    if len(desks) == 1:
        with desks[0] as desk:
            for task in tasks:
                desk.work(task, run.take)
        return

    def start(desk: _Desk) -> Callable[[_Task, _Tell], None]:
        import torch

        torch.set_num_threads(desk.place.threads)  # it is each thread's own
        return desk.work

    makers = [functools.partial(start, desk) for desk in desks]
    for found in spread(makers, tasks, lambda index: desks[index].close()):
        run.take(found)


class _Desk:
    """One device's place of work: its examiner, and the inputs and references that it made."""

    def __init__(self, place: Place, timeout: float, broken: dict[str, BuildError], run: _Run) -> None:
        self.place = place
        self._broken = broken
        self._environment, self._run_name, self._stop_at = run.environment, run.name, run.stop_at
        self._examiner = Examiner(place, timeout)
        self._maker = InputMaker(run.traceset.root, fresh_seed())
        self._reference: Reference | None = None

    def __enter__(self) -> _Desk:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child; what waits for it is told that it died."""
        self._examiner.__exit__(None, None, None)

    def work(self, task: _Task, tell: _Tell) -> None:
        """Every solution of ``task``, one after the other."""
        definition, workload, maker, config = task.definition, task.workload, self._maker, task.config
        if time.monotonic() > self._stop_at:
            tell(_LeftOut(len(task.solutions), ""))
            return
        tell(f"{definition.name} {_short_axes(workload)}: inputs and reference")
        try:
            if self._reference is None or self._reference.definition is not definition:
                self._reference = Reference(definition)
            reference = self._reference
            case = prepare(definition, workload, maker, reference, config)
        except (InputError, BrokenReference) as error:
            tell(_LeftOut(len(task.solutions), str(error)))
            return
        try:
            self._run_all(task, case, tell)
        finally:
            case.close()

    def _run_all(self, task: _Task, case: Case, tell: _Tell) -> None:
        own = {content_hash(op) for op in task.displaced}
        displaced = list(task.displaced)
        known: dict[tuple[str, bool], BenchResult] = {}
        for index, solution in enumerate(task.solutions):
            digest = content_hash(solution)
            yardstick = solution.author == ENGINE_AUTHOR and digest in own
            if (digest, yardstick) in known:
                tell(known[digest, yardstick].named(solution))
                continue
            if time.monotonic() > self._stop_at:
                tell(_LeftOut(len(task.solutions) - index, ""))
                return
            tell(f"{task.definition.name} {_short_axes(task.workload)}: {solution.name}")
            outcome = self._examine(case, solution, () if yardstick else displaced)
            if solution in displaced and outcome.solution_ms is None:
                displaced.remove(solution)  # it does not run here, so there is nothing to compare with
            result = make_result(case, solution, outcome, self._environment, self._run_name, yardstick)
            known[digest, yardstick] = result
            tell(result)

    def _examine(self, case: Case, solution: Solution, displaced: Sequence[Solution]) -> Outcome:
        failure = self._broken.get(content_hash(solution))
        if failure is not None:
            return Outcome(Verdict(EvaluationStatus.COMPILE_ERROR, log=str(failure)))
        if solution.author == ENGINE_AUTHOR and displaced and solution not in displaced:
            # It only says that it is the engine's: judged as anyone's.
            solution = solution.model_copy(update={"author": f"not the {ENGINE_AUTHOR}"})
        return self._examiner.examine(case, solution, displaced)


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
            run.take(f"compiling {index + 1} of {len(futures)}: {compiled[key].name}")
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
