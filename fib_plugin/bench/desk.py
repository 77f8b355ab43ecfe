"""Desk: one device's place of work: its examiner, and the inputs and references that it made."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fib_plugin.bench.builds import Builds
from fib_plugin.bench.case import Case, prepare
from fib_plugin.bench.child import Place
from fib_plugin.bench.examiner import Examiner, Outcome
from fib_plugin.bench.forkserver import ServerDied
from fib_plugin.bench.inputs import InputError, InputMaker, fresh_seed
from fib_plugin.bench.nursery import Nursery
from fib_plugin.bench.referee import Referee
from fib_plugin.bench.reference import BrokenReference
from fib_plugin.bench.results import BenchResult, make_result
from fib_plugin.bench.roofline import Roofline, roofline
from fib_plugin.bench.task import Found, LeftOut, Task
from fib_plugin.judge import Verdict
from fib_plugin.schema import ENGINE_AUTHOR, Environment, EvaluationStatus, Solution, Workload, content_hash

#: So many times the time of a solution is given to one call of a reference: it is the plainest code there is.
_REFERENCE_TIMEOUTS = 10.0


class Desk:
    """Use as a context manager, or call `close`.

    Args:
        place: the device, its threads and the build cache.
        timeout: seconds for one solution on one workload.
        root: the folder that the workloads' saved tensors lie in; None where the dataset is in memory.
        builds: what cannot be built here.
        environment, run_name: what results are signed with.
    """

    def __init__(
        self, place: Place, timeout: float, root: Path | None, builds: Builds, environment: Environment, run_name: str
    ) -> None:
        self.place = place
        self._builds = builds
        self._environment, self._run_name = environment, run_name
        self._nursery = Nursery(place.device, place.threads)
        self._examiner = Examiner(place, timeout, self._nursery)
        self._maker = InputMaker(root, fresh_seed())
        self._referee: Referee | None = None
        self._reference_s = _REFERENCE_TIMEOUTS * timeout
        self._said = False

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children; what waits for them is told that they died."""
        self._nursery.close()
        self._examiner.__exit__(None, None, None)
        if self._referee is not None:
            self._referee.close()

    def work(self, task: Task, stop_at: float = math.inf) -> Iterator[Found]:
        """Every solution of ``task``, one after the other; past ``stop_at`` (monotonic) none is begun."""
        if time.monotonic() > stop_at:
            yield LeftOut(len(task.solutions), "")
            return
        yield f"{task.definition.name} {short_axes(task.workload)}: inputs and reference"
        try:
            case = self._prepare(task)
        except (InputError, BrokenReference, ServerDied) as error:
            yield LeftOut(len(task.solutions), _why(task, error))
            return
        try:
            yield from self._run_all(task, case, stop_at)
        finally:
            case.close()
            if self._referee is not None:
                self._referee.release()

    def _prepare(self, task: Task) -> Case:
        if self._referee is None or self._referee.definition != task.definition:
            if self._referee is not None:
                self._referee.close()
            self._referee = Referee(self.place, self._nursery, task.definition, self._reference_s)
        place = self.place
        return prepare(
            task.definition, task.workload, self._maker, self._referee, task.config, place.device, place.warm
        )

    def _run_all(self, task: Task, case: Case, stop_at: float) -> Iterator[Found]:
        own = {content_hash(op) for op in task.displaced}
        displaced, roof = list(task.displaced), self._roofline(task, case)
        known: dict[tuple[str, bool], BenchResult] = {}
        for index, solution in enumerate(task.solutions):
            digest = content_hash(solution)
            yardstick = solution.author == ENGINE_AUTHOR and digest in own
            if (digest, yardstick) in known:
                yield known[digest, yardstick].named(solution)
                continue
            if time.monotonic() > stop_at:
                yield LeftOut(len(task.solutions) - index, "")
                return
            yield f"{task.definition.name} {short_axes(task.workload)}: {solution.name}"
            try:
                outcome = self._examine(case, solution, () if yardstick else displaced)
            except (BrokenReference, ServerDied) as error:
                yield LeftOut(len(task.solutions) - index, _why(task, error))
                return
            if self._examiner.notes and not self._said:
                self._said = True
                yield LeftOut(0, f"this host's sandbox is weaker than it could be: {'; '.join(self._examiner.notes)}")
            if solution in displaced and outcome.solution_ms is None:
                displaced.remove(solution)  # it does not run here, so there is nothing to compare with
            result = make_result(case, solution, outcome, self._environment, self._run_name, yardstick, roof)
            known[digest, yardstick] = result
            yield result

    def _roofline(self, task: Task, case: Case) -> Roofline | None:
        try:
            return roofline(
                task.definition,
                task.workload.axes,
                case.trials[0].inputs,
                device=self.place.device,
                threads=self.place.threads,
                mutates=task.config.mutates,
                moving=case.timing.blob.size,
            )
        except (ValueError, RuntimeError):  # indices that make no sense, no room to measure: no reason to stop
            return None

    def _examine(self, case: Case, solution: Solution, displaced: Sequence[Solution]) -> Outcome:
        failure = self._builds.failure(solution)
        if failure is not None:
            return Outcome(Verdict(EvaluationStatus.COMPILE_ERROR, log=str(failure)))
        if solution.author == ENGINE_AUTHOR and displaced and solution not in displaced:
            # It only says that it is the engine's: judged as anyone's.
            solution = solution.model_copy(update={"author": f"not the {ENGINE_AUTHOR}"})
        return self._examiner.examine(case, solution, displaced)


def _why(task: Task, error: Exception) -> str:
    """Why a workload is left out, with its name."""
    name = f"workload {task.workload.uuid}"
    return str(error) if str(error).startswith(name) else f"{name} of {task.definition.name}: {error}"


def short_axes(workload: Workload) -> str:
    """The sizes of a workload, for a line of progress."""
    return " ".join(f"{axis}={size}" for axis, size in workload.axes.items())
