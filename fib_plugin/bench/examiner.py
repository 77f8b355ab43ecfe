"""Examiner: takes one solution through one case: builds it in a child, has it run, judges, has it timed.

It owns the child, keeps it while all goes well, and replaces it after any failure.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from typing_extensions import Self

from fib_plugin import judge
from fib_plugin.bench import wire
from fib_plugin.bench.case import Case, DrawSet, Trial
from fib_plugin.bench.child import Child, ChildDied, ChildTimeout, Place
from fib_plugin.bench.form import check_form
from fib_plugin.bench.inputs import fresh_seed
from fib_plugin.judge import Ratio, Verdict, median_ms, ratio, wrong
from fib_plugin.schema import ENGINE_AUTHOR, Correctness, EvaluationStatus, Solution, content_hash, dump_line

_TIMING_S = 0.2
_DRAWING_S = 0.2
#: A build may import an engine or compile; both are slow once and not the kernel's doing.
_BUILD_S = 240.0
_SLOW_CALL_S = 1.0
#: Ops that keep a packed copy of every weight they ever saw make a child grow; past this it starts anew.
_MOST_RESIDENT = 4 << 30


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdict on a solution, its time, and how it compares with the displaced op, if there is one."""

    verdict: Verdict
    solution_ms: float | None = None
    ratio: Ratio | None = None
    baseline: Solution | None = None


class _Refused(Exception):
    """The child answered that something failed."""

    def __init__(self, reply: wire.Failed) -> None:
        super().__init__(reply.log)
        self.reply = reply


class Examiner:
    """Use as a context manager; leaving it ends the child."""

    def __init__(self, place: Place, timeout: float) -> None:
        self._place = place
        self._timeout = timeout
        self._deadline = 0.0
        self._child: Child | None = None
        self._attached: Case | None = None
        self._unusable: set[str] = set()
        #: (workload, content hash) of an engine's op -> whether it agreed with the reference.
        self._right: dict[tuple[str, str], bool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.replace_child()

    def replace_child(self) -> None:
        """End the child; the next examination starts a fresh one."""
        if self._child is not None:
            self._child.close()
        self._child = self._attached = None

    def examine(self, case: Case, solution: Solution, displaced: Sequence[Solution] = ()) -> Outcome:
        """Run ``solution`` on ``case``; the first usable op of ``displaced`` is timed beside it."""
        outcome = None
        try:
            outcome = self._examine(case, solution, displaced)
        except _Refused as refused:
            status = EvaluationStatus.COMPILE_ERROR if refused.reply.build else EvaluationStatus.RUNTIME_ERROR
            outcome = Outcome(Verdict(status, log=self._with_output(refused.reply.log)))
        except ChildDied as died:
            outcome = Outcome(Verdict(EvaluationStatus.RUNTIME_ERROR, log=str(died)))
        except ChildTimeout:
            log = f"no answer within {self._timeout:g} s; the process was killed"
            outcome = Outcome(Verdict(EvaluationStatus.TIMEOUT, log=log))
        finally:
            if outcome is None or not outcome.verdict.passed:
                self.replace_child()
        return outcome

    def _examine(self, case: Case, solution: Solution, displaced: Sequence[Solution]) -> Outcome:
        if self._child is not None and self._attached is not case and self._child.resident() > _MOST_RESIDENT:
            self.replace_child()
        key = self._load(solution, case)
        self._deadline = time.monotonic() + self._timeout
        self._attach(case)
        verdict = self._try_out(case, key, fewer=solution.author == ENGINE_AUTHOR)
        if solution.author == ENGINE_AUTHOR:
            self._right[case.workload.uuid, key] = verdict.passed
        if not verdict.passed:
            return Outcome(verdict)
        timed, baseline = self._time(case, solution, key, displaced)
        # The engine's own op may keep what it derived from weights, as it does in the engine, where they never change.
        late = None if solution.author == ENGINE_AUTHOR else self._check_again(case, key)
        if late is not None:
            return Outcome(late)
        if baseline is None:
            return Outcome(verdict, median_ms(timed.solution_ns))
        compared = ratio(timed.solution_ns, timed.baseline_ns, timed.toll_ns)
        return Outcome(verdict, median_ms(timed.solution_ns), compared, baseline)

    def _try_out(self, case: Case, key: str, fewer: bool) -> Verdict:
        """Correctness on fresh inputs; the verdict carries the worst errors of all trials."""
        verdicts = []
        for trial in case.trials:
            trial.arm()
            ran = self._ask(wire.Run(key, trial.name, trial.layout), wire.Ran)
            verdict = self._judge(case, trial, ran, fewer)
            if not verdict.passed:
                return verdict
            verdicts.append(verdict)
            if ran.seconds > _SLOW_CALL_S:  # such a solution has lost; spend no more on it than needed
                break
        if case.draws is not None:
            return self._judge_draws(case, case.draws, key)
        return _worst(verdicts, case)

    def _judge(self, case: Case, trial: Trial, ran: wire.Ran, fewer: bool = False) -> Verdict:
        written = trial.changed_inputs(case.definition, case.config.mutates)
        if written or case.config.mutates:
            trial.restore()
        verdict = check_form(case.definition, trial.layout, ran.outputs, self._place.device, fewer)
        if verdict is not None:
            return verdict
        if written:
            return wrong(f"the solution wrote to its inputs: {', '.join(written)} (copy an input before changing it)")
        outputs = trial.outputs()[: len(ran.outputs)]
        if case.config.evaluator == "sampling":
            return judge.draws(case.definition, trial.inputs, outputs[:1])
        return judge.outputs(case.definition, outputs, trial.expected, case.config.tolerance, fewer)

    def _judge_draws(self, case: Case, draws: DrawSet, key: str) -> Verdict:
        limit = max(0.5, min(20.0, self._left() / 2))
        drawn = self._ask(
            wire.Draw(key, draws.name, draws.layout, draws.calls, draws.least, _DRAWING_S, limit), wire.Drawn
        )
        count = min(drawn.calls, draws.calls)
        if count < draws.least:
            log = f"{count} calls in {limit:.0f} s; {draws.least} are needed to test the distribution"
            return Verdict(EvaluationStatus.TIMEOUT, log=log)
        samples = draws.blob.tensor(draws.layout.outputs[0])[:count].unbind()
        return _with_seeds(judge.draws(case.definition, draws.inputs, samples, draws.groups), case)

    def _time(
        self, case: Case, solution: Solution, key: str, displaced: Sequence[Solution]
    ) -> tuple[wire.Timed, Solution | None]:
        baseline = self._baseline(case, solution, displaced)
        child = self._child
        assert child is not None
        if child.prepared != case.timing.name:
            self._ask(wire.Prepare(case.workload.uuid, case.timing.name, case.timing.layouts), wire.Ready)
            child.prepared = case.timing.name
        while True:
            baseline_key = None if baseline is None else content_hash(baseline)
            try:
                timed = self._ask(wire.Time(key, baseline_key, _TIMING_S), wire.Timed)
            except _Refused as refused:
                if baseline_key is None or refused.reply.key != baseline_key:
                    raise
                self._unusable.add(baseline_key)
                baseline = None
                continue
            if not timed.solution_ns or (baseline and len(timed.baseline_ns) != len(timed.solution_ns)):
                raise ChildDied("the process returned no times")
            return timed, baseline

    def _baseline(self, case: Case, solution: Solution, displaced: Sequence[Solution]) -> Solution | None:
        """The first displaced op that builds here. One that does not is not tried again in this run."""
        for candidate in displaced:
            key = content_hash(candidate)
            if key in self._unusable or candidate.name == solution.name:
                continue
            try:
                self._load(candidate, case)
                if self._computes(case, key):
                    return candidate
            except _Refused:
                self._unusable.add(key)
            except (ChildDied, ChildTimeout):
                self._unusable.add(key)
                self.replace_child()
                self._load(solution, case)
                self._attach(case)
        return None

    def _computes(self, case: Case, key: str) -> bool:
        """Whether the engine's op computes this definition at all: beating one that does not is no win.

        Shapes alone cannot tell silu from gelu; a definition matched by shape to the wrong op shows here.
        """
        known = self._right.get((case.workload.uuid, key))
        if known is None:
            known = self._right[case.workload.uuid, key] = self._try_out(case, key, fewer=True).passed
        return known

    def _check_again(self, case: Case, key: str) -> Verdict | None:
        """After timing, new values at the old addresses: an answer that was kept from before is now wrong."""
        trial = case.again
        trial.arm()
        index = fresh_seed() % len(case.timing.layouts)
        ran = self._ask(wire.Again(key, index, trial.name, trial.layout), wire.Ran)
        verdict = self._judge(case, trial, ran)
        if verdict.passed:
            return None
        return Verdict(verdict.status, verdict.correctness, f"after timing, on changed inputs: {verdict.log}")

    def _load(self, solution: Solution, case: Case) -> str:
        key = content_hash(solution)
        child = self._alive()
        if key not in child.loaded:
            message = wire.Load(key, dump_line(solution), dump_line(case.definition), str(self._place.cache))
            self._deadline = time.monotonic() + self._timeout + _BUILD_S
            self._ask(message, wire.Ready)
            child.loaded.add(key)
            self._deadline = time.monotonic() + self._timeout
        return key

    def _attach(self, case: Case) -> None:
        if self._attached is case:
            return
        child = self._alive()
        if self._attached is not None:
            for name in self._attached.blobs():
                self._ask(wire.Detach(name), wire.Ready)
        for name, blob in case.blobs().items():
            _expect(child.request(wire.Attach(name, blob.size), self._left(), blob), wire.Ready)
        self._attached = case

    def _ask(self, message: wire.Request, kind: type[Any]) -> Any:
        return _expect(self._alive().request(message, self._left()), kind)

    def _alive(self) -> Child:
        if self._child is None:
            self._child = Child(self._place, role="referee")  # not sandboxed yet: it runs the engine's op as well
            self._attached = None
        return self._child

    def _left(self) -> float:
        return max(0.05, self._deadline - time.monotonic())

    def _with_output(self, log: str) -> str:
        printed = self._child.log() if self._child is not None else ""
        return f"{log}\n--- output ---\n{printed}" if printed else log


def _expect(reply: wire.Reply, kind: type[Any]) -> Any:
    if isinstance(reply, kind):
        return reply
    if isinstance(reply, wire.Failed):
        raise _Refused(reply)
    raise ChildDied(f"the process answered with {type(reply).__name__}, {kind.__name__} was expected")


def _worst(verdicts: Sequence[Verdict], case: Case) -> Verdict:
    errors = [verdict.correctness for verdict in verdicts if verdict.correctness is not None]
    extra = dict(min(errors, key=lambda e: (e.extra or {}).get("matched_ratio", 1.0)).extra or {})
    correctness = Correctness(
        max_relative_error=max(e.max_relative_error for e in errors),
        max_absolute_error=max(e.max_absolute_error for e in errors),
        extra=extra | {"trials": len(errors)},
    )
    return _with_seeds(Verdict(EvaluationStatus.PASSED, correctness), case)


def _with_seeds(verdict: Verdict, case: Case) -> Verdict:
    """The seeds go on record once the run is judged, so that its inputs can be made again."""
    correctness = verdict.correctness
    if correctness is None:
        return verdict
    extra = {**(correctness.extra or {}), "seeds": list(case.seeds)}
    return Verdict(verdict.status, correctness.model_copy(update={"extra": extra}), verdict.log)
