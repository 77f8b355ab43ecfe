"""`run_bench`: definitions x solutions x workloads of a dataset, each result written as it arrives."""

from __future__ import annotations

import functools
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fib_plugin import ops
from fib_plugin.bench.builds import Builds
from fib_plugin.bench.child import Place
from fib_plugin.bench.desk import Desk
from fib_plugin.bench.devices import Seat, host_devices, missing_devices, spread
from fib_plugin.bench.host import physical_cores
from fib_plugin.bench.results import BenchResult, evaluation_hash
from fib_plugin.bench.selection import Batch, BenchError, drop_foreign, drop_measured, select, why_nothing
from fib_plugin.bench.task import Found, LeftOut, Task
from fib_plugin.dataset import TraceSet, append_measurements, current_environment, load_measurements
from fib_plugin.schema import Environment, SchemaError, Solution


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run reports as it goes: what it is at, a result, or why a workload was left out.

    ``left_s`` is how long the rest will take, should it take as long as what was done; None before anything was.
    """

    done: int
    total: int
    doing: str = ""
    result: BenchResult | None = None
    problem: str = ""
    left_s: float | None = None


@dataclass(slots=True)
class _Run:
    """State of one run; its one writer."""

    traceset: TraceSet
    progress: Callable[[Progress], None]
    save: bool
    budget: float | None
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.monotonic)
    at_work_since: float = field(default_factory=time.monotonic)
    total: int = 0
    done: int = 0
    unstarted: int = 0
    results: list[BenchResult] = field(default_factory=list)
    said: set[str] = field(default_factory=set)

    @property
    def stop_at(self) -> float:
        return self.started + (math.inf if self.budget is None else self.budget)

    def take(self, found: Found) -> None:
        if isinstance(found, str):
            self._tell(doing=found)
        elif isinstance(found, BenchResult):
            self._add(found)
        elif found.why:
            if found.count == 0 and found.why in self.said:
                return  # each device says it of the same host
            self.said.add(found.why)
            self.done += found.count
            self._tell(problem=found.why)
        else:
            self.unstarted += found.count

    def end(self) -> list[BenchResult]:
        if self.unstarted:
            why = f"{self.unstarted} evaluations: the budget of {self.budget:g} s was spent (continue with --resume)"
            self.take(LeftOut(self.unstarted, why))
        return self.results

    def _add(self, result: BenchResult) -> None:
        if self.save:
            if self.traceset.get_solution(result.solution.name) != result.solution:
                self.traceset.add_solution(result.solution, replace=True)  # a trace of it would lead nowhere
            self.traceset.add_traces([result.trace])
            if self.traceset.root is not None:
                append_measurements(self.traceset.root, result.definition.op_type, [result.measurement])
        self.results.append(result)
        self.done += 1
        self._tell(result=result)

    def _tell(self, doing: str = "", result: BenchResult | None = None, problem: str = "") -> None:
        left = None
        if self.results:
            left = (time.monotonic() - self.at_work_since) / len(self.results) * (self.total - self.done)
        self.progress(Progress(self.done, self.total, doing, result, problem, left))


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
    ray: str | None = None,
    graphs: bool = True,
    warm: bool = False,
    kernels: bool = False,
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
        cache: build cache; None takes FIB_CACHE_PATH. On Ray every node has its own.
        candidates: run these, which need not be in the dataset, instead of the dataset's solutions.
        save: whether results are written to the dataset; candidates that have some are then written too.
        budget: seconds after which nothing new is started.
        devices: run on these at once; None takes all CUDA devices of the host, or the CPU.
        ray: address of a Ray cluster, ``auto`` or ``local``: all devices of its nodes are used (see `cluster`).
        graphs: on GPUs, time replays of CUDA graphs where solution and displaced op can be captured.
        warm: call again and again with the same inputs, so that they lie in the device's cache; proves no win.
        kernels: on GPUs, also have CUPTI tell how long kernels ran, and how many; each solution's child ends with it.

    Raises:
        BenchError: nothing matches what was asked, or the cluster cannot be used.
    """
    unknown = missing_devices(devices) if devices and ray is None else []
    if unknown:
        raise BenchError(
            f"this host has no device {', '.join(unknown)} (it has {', '.join(sorted({*host_devices(), 'cpu'}))})"
        )
    batches = list(select(traceset, definitions, solutions, workloads, op_type, author, candidates))
    if not batches:
        raise BenchError(why_nothing(traceset, definitions, solutions, op_type, author))
    run = _Run(traceset, progress or (lambda _: None), save, budget)
    configs, unusable = _configs(batches, traceset)
    for name, why in unusable.items():
        lost = sum(len(chosen) for batch in batches if batch.definition.name == name for _, chosen in batch.jobs)
        run.total += lost
        run.take(LeftOut(lost, why))
    plan = functools.partial(_plan, batches, configs, run, resume)
    if ray is None:
        places = [
            Place(device, threads or physical_cores(), _cache(cache), graphs, warm, kernels)
            for device in devices or host_devices()
        ]
        _on_this_host(places, plan, timeout, run)
    else:
        from fib_plugin.bench.cluster import Cluster

        with Cluster(ray, devices, threads, timeout, run.name, graphs, warm, kernels) as cluster:
            for found in cluster.work(plan, traceset.root, lambda: run.stop_at):
                run.take(found)
    return run.end()


def _configs(batches: Sequence[Batch], traceset: TraceSet) -> tuple[dict[str, ops.EvaluationConfig], dict[str, str]]:
    """How each definition is judged, and why some cannot be."""
    configs, unusable = {}, {}
    for definition in (batch.definition for batch in batches):
        try:
            configs[definition.name] = ops.evaluation_config(definition, traceset.root)
        except SchemaError as error:
            unusable[definition.name] = str(error)
    return configs, unusable


def _plan(
    batches: Sequence[Batch],
    configs: Mapping[str, ops.EvaluationConfig],
    run: _Run,
    resume: bool,
    environment: Environment,
    device: str,
) -> deque[Task]:
    """What is to be done on devices of one kind, in one environment: each asks its own question."""
    batches = [batch.copy() for batch in batches if batch.definition.name in configs]
    foreign = drop_foreign(batches, device.split(":")[0])
    if resume and run.traceset.root is not None:
        judged_by = {name: evaluation_hash(config) for name, config in configs.items()}
        drop_measured(batches, load_measurements(run.traceset.root), environment, judged_by)
    run.total += sum(len(chosen) for batch in batches for _, chosen in batch.jobs)
    run.at_work_since = time.monotonic()
    if foreign:
        names = ", ".join(sorted(foreign)[:3]) + (", ..." if len(foreign) > 3 else "")
        run.take(LeftOut(0, f"{len(foreign)} solutions for other hardware than {device}: {names}"))
    return deque(
        Task(batch.definition, workload, chosen, list(batch.displaced), configs[batch.definition.name])
        for batch in batches
        for workload, chosen in batch.jobs
        if chosen
    )


def _on_this_host(
    places: Sequence[Place], plan: Callable[[Environment, str], deque[Task]], timeout: float, run: _Run
) -> None:
    import torch

    environment = current_environment()
    tasks = plan(environment, places[0].device)
    builds = Builds(places[0].cache, physical_cores())
    builds.compile((solution for task in tasks for solution in task.solutions), run.take)
    desks = [Desk(place, timeout, run.traceset.root, builds, environment, run.name) for place in places]

    def start(desk: Desk) -> Callable[[Task], Iterator[Found]]:
        torch.set_num_threads(desk.place.threads)  # it is each thread's own
        return functools.partial(desk.work, stop_at=run.stop_at)

    before = torch.get_num_threads()
    torch.set_num_threads(places[0].threads)
    try:
        if len(desks) == 1:
            with desks[0] as desk:
                for task in tasks:
                    for found in desk.work(task, run.stop_at):
                        run.take(found)
        else:
            for found in spread([Seat(functools.partial(start, desk), tasks, desk.close) for desk in desks]):
                run.take(found)
    finally:
        torch.set_num_threads(before)


def _cache(cache: Path | None) -> Path:
    if cache is not None:
        return cache
    from fib_plugin import settings

    return settings.load().cache_path
