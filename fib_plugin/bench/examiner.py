"""Examiner: takes one solution through one case: has it built and run in a child, judges, has it timed.

What it knows is right, and the clock that counts, are in this process, which never runs a solution.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from typing_extensions import Self

from fib_plugin import judge
from fib_plugin.bench import wire
from fib_plugin.bench.case import Case, DrawSet, Trial
from fib_plugin.bench.child import ChildDied, ChildTimeout, Place
from fib_plugin.bench.conduct import check_conduct, check_floor, check_replaced
from fib_plugin.bench.form import check_form
from fib_plugin.bench.fouls import Caught, Foul, tagged
from fib_plugin.bench.seat import Refused, Seat
from fib_plugin.bench.seating import Seating
from fib_plugin.bench.timed import TimedJudge
from fib_plugin.bench.timing import disagrees, measure, steady
from fib_plugin.bench.turn import Turn, Uncaptured
from fib_plugin.build import BuildError, lay_down
from fib_plugin.judge import Ratio, Verdict, median_ms, ratio, wrong
from fib_plugin.schema import ENGINE_AUTHOR, Correctness, EvaluationStatus, Solution, content_hash

_TIMING_S = 0.2
_DRAWING_S = 0.2
#: A build may import an engine or compile; both are slow once and not the kernel's doing.
_BUILD_S = 240.0
_SLOW_CALL_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdict on a solution, its time, and how it compares with the displaced op, if there is one."""

    verdict: Verdict
    solution_ms: float | None = None
    ratio: Ratio | None = None
    baseline: Solution | None = None
    #: How it was timed: "graph" for replays of CUDA graphs, or "plain" calls.
    timing: str = ""


@dataclass(frozen=True, slots=True)
class _Times:
    """Nanoseconds of the sides' calls."""

    solution: list[float]
    baseline: list[float]
    toll: list[float]
    timing: str


@dataclass(frozen=True, slots=True)
class _Contender:
    """A solution that is built, in its seat."""

    solution: Solution
    seat: Seat
    key: str

    @property
    def engine(self) -> bool:
        """It is the engine's own op: it may leave out outputs, and keep what it derived from weights."""
        return self.solution.author == ENGINE_AUTHOR


class Examiner:
    """Use as a context manager; leaving it ends the children."""

    def __init__(self, place: Place, timeout: float) -> None:
        self._place = place
        self._timeout = timeout
        self._seating = Seating(place)
        self._at: Seat | None = None
        self._unusable: set[str] = set()
        #: (workload, content hash) of an engine's op -> whether it agreed with the reference.
        self._right: dict[tuple[str, str], bool] = {}
        #: Protections that this host's sandbox lacks, in words.
        self.notes: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._seating.close()

    def examine(self, case: Case, solution: Solution, displaced: Sequence[Solution] = ()) -> Outcome:
        """Run ``solution`` on ``case``; the first usable op of ``displaced`` is timed beside it."""
        outcome, self._at = None, None
        try:
            self._seating.enter(case)
            outcome = self._examine(case, solution, displaced)
        except BuildError as error:
            outcome = Outcome(Verdict(EvaluationStatus.COMPILE_ERROR, log=str(error)))
        except Refused as refused:
            outcome = Outcome(self._refused(refused.reply))
        except Caught as caught:
            outcome = Outcome(caught.verdict())
        except ChildDied as died:
            foul: Foul = "sandbox" if "the process was killed: " in str(died) else "crashed"
            outcome = Outcome(tagged(foul, Verdict(EvaluationStatus.RUNTIME_ERROR, log=str(died))))
        except ChildTimeout:
            log = f"no answer within {self._timeout:g} s; the process was killed"
            outcome = Outcome(tagged("timeout", Verdict(EvaluationStatus.TIMEOUT, log=log)))
        finally:
            if self._at is not None and (outcome is None or not outcome.verdict.passed):
                self._seating.drop(self._at)
        return outcome

    def _refused(self, reply: wire.Failed) -> Verdict:
        printed = self._at.child.log() if self._at is not None else ""
        log = f"{reply.log}\n--- output ---\n{printed}" if printed else reply.log
        verdict = Verdict(EvaluationStatus.COMPILE_ERROR if reply.build else EvaluationStatus.RUNTIME_ERROR, log=log)
        if reply.build and not reply.denied:
            return verdict
        return tagged("sandbox" if reply.denied else "crashed", verdict)

    def _examine(self, case: Case, solution: Solution, displaced: Sequence[Solution]) -> Outcome:
        contender = self._build(case, solution)
        self._at = contender.seat
        if not contender.engine:
            check_replaced(contender.seat, contender.key)
        verdict = self._try_out(case, contender)
        if contender.engine:
            self._right[case.workload.uuid, contender.key] = verdict.passed
        if not verdict.passed:
            return Outcome(verdict)
        if not contender.engine:
            check_conduct(case, contender.seat, contender.key, solution)
        baseline = self._baseline(case, solution, displaced)
        # The engine's own op may keep what it derived from weights, as it does in the engine: they never change.
        check = None if contender.engine else TimedJudge(case, self._place.device)
        try:
            timed = self._time(case, contender, baseline, check)
        except (Refused, ChildDied, ChildTimeout) as error:
            if baseline is None or not self._fault_of(baseline, error):
                raise
            baseline = None
            timed = self._time(case, contender, None, check)
        if isinstance(timed, Verdict):
            return Outcome(timed)
        if check is not None:
            check_replaced(contender.seat, contender.key)
            check_floor(case, self._place, median_ms(timed.solution))
            late = check.distribution() or check.again(contender.seat, contender.key)
            if late is not None:
                return Outcome(late)
        if baseline is None:
            return Outcome(verdict, median_ms(timed.solution), timing=timed.timing)
        compared = ratio(timed.solution, timed.baseline, timed.toll)
        return Outcome(verdict, median_ms(timed.solution), compared, baseline.solution, timed.timing)

    def _build(self, case: Case, solution: Solution) -> _Contender:
        """Have ``solution`` built in its seat and the case laid before it."""
        engine = solution.author == ENGINE_AUTHOR
        folder = lay_down(solution, self._place.cache)
        seat = self._at = self._seating.seat(solution, case.definition, engine, folder)
        seat.give(self._timeout + _BUILD_S)
        key = seat.load(solution, case.definition, folder)
        if seat.child.sandboxed:
            self.notes = seat.child.notes
        seat.give(self._timeout)
        seat.attach(case)
        return _Contender(solution, seat, key)

    def _try_out(self, case: Case, contender: _Contender) -> Verdict:
        """Correctness on fresh inputs; the verdict carries the worst errors of all trials."""
        verdicts = []
        for trial in case.trials:
            trial.arm()
            ran = contender.seat.ask(wire.Run(contender.key, trial.name, trial.layout), wire.Ran)
            verdict = self._judge(case, trial, ran, contender.engine)
            if not verdict.passed:
                return verdict
            if ran.changed_late and not contender.engine:
                raise Caught("late_work", "what it returned changed after it was returned")
            verdicts.append(verdict)
            if ran.seconds > _SLOW_CALL_S:  # such a solution has lost; spend no more on it than needed
                break
        if case.draws is not None:
            return self._judge_draws(case, case.draws, contender)
        return _worst(verdicts, case)

    def _judge(self, case: Case, trial: Trial, ran: wire.Ran, fewer: bool) -> Verdict:
        written = trial.changed_inputs(case.definition, case.config.mutates)
        amiss = trial.written_amiss(case.definition, case.config) if case.config.mutates and not fewer else ""
        if written or case.config.mutates:
            trial.restore()
        verdict = check_form(case.definition, trial.layout, ran.outputs, self._place.device, fewer)
        if verdict is not None:
            return tagged("not_a_tensor", verdict) if "not a torch.Tensor" in verdict.log else verdict
        if written:
            return tagged(
                "input_written",
                wrong(f"the solution wrote to its inputs: {', '.join(written)} (copy an input before changing it)"),
            )
        if amiss:
            return tagged("wrong_values", wrong(amiss))
        outputs = trial.outputs()[: len(ran.outputs)]
        if case.config.evaluator == "sampling":
            verdict = judge.draws(case.definition, trial.inputs, outputs[:1])
        else:
            verdict = judge.outputs(case.definition, outputs, trial.expected, case.config.tolerance, fewer)
        return verdict if verdict.passed else tagged("wrong_values", verdict)

    def _judge_draws(self, case: Case, draws: DrawSet, contender: _Contender) -> Verdict:
        limit = max(0.5, min(20.0, contender.seat.left / 2))
        order = wire.Draw(contender.key, draws.name, draws.layout, draws.calls, draws.least, _DRAWING_S, limit)
        drawn = contender.seat.ask(order, wire.Drawn)
        count = min(drawn.calls, draws.calls)
        if count < draws.least:
            log = f"{count} calls in {limit:.0f} s; {draws.least} are needed to test the distribution"
            return tagged("timeout", Verdict(EvaluationStatus.TIMEOUT, log=log))
        samples = draws.blob.tensor(draws.layout.outputs[0])[:count].unbind()
        verdict = _with_seeds(judge.draws(case.definition, draws.inputs, samples, draws.groups), case)
        return verdict if verdict.passed else tagged("wrong_values", verdict)

    def _time(
        self, case: Case, contender: _Contender, baseline: _Contender | None, check: TimedJudge | None
    ) -> _Times | Verdict:
        """Times of solution, displaced op and toll, or why the solution failed after all.

        All of them in CUDA graphs, or none: between plain calls a small kernel costs what Python takes to launch it.
        """
        # Engines draw tokens outside of their graphs.
        if self._place.graphs and self._place.device != "cpu" and case.config.evaluator != "sampling":
            with contextlib.suppress(Uncaptured):
                return self._take_turns(case, contender, baseline, check, graphs=True)
        return self._take_turns(case, contender, baseline, check, graphs=False)

    def _take_turns(
        self, case: Case, contender: _Contender, baseline: _Contender | None, check: TimedJudge | None, graphs: bool
    ) -> _Times | Verdict:
        latency = self._seating.latency_ns()
        sides = [contender, *([baseline] if baseline else [])]
        for side in sides:
            sets = case.sets(side.seat.displaced)
            if side is contender and not contender.engine:
                for index in range(len(sets)):
                    sets.refill(index)  # a solution before may have written to them
            side.seat.prepare(sets)

        own = Turn(contender.seat, case, contender.key, latency, check, graphs=graphs)
        turns = [own]
        if baseline is not None:
            turns.append(Turn(baseline.seat, case, baseline.key, latency, graphs=graphs))
            if not baseline.seat.child.sandboxed:
                turns.append(Turn(baseline.seat, case, baseline.key, latency, toll=True, graphs=graphs))
        try:
            found = measure(turns, _TIMING_S, np.random.default_rng())
        except Uncaptured:
            if own.verdict is None:
                raise
        if own.verdict is not None:
            return own.verdict
        if not contender.engine and (difference := disagrees(own, found[0])):
            raise Caught("time_mismatch", difference)
        solution_ns, *others = steady(found)
        timing = "graph" if graphs else "plain"
        return _Times(solution_ns, others[0] if others else [], others[1] if len(others) > 1 else [], timing)

    def _baseline(self, case: Case, solution: Solution, displaced: Sequence[Solution]) -> _Contender | None:
        """The first displaced op that builds here. One that does not is not tried again in this run."""
        at = self._at
        for candidate in displaced:
            key = content_hash(candidate)
            if key in self._unusable or candidate.name == solution.name:
                continue
            try:
                found = self._build(case, candidate)
                if self._computes(case, found):
                    found.seat.prepare(case.sets(found.seat.displaced))
                    for toll in (False, True) if not found.seat.child.sandboxed else (False,):
                        found.seat.ask(wire.Burst(key, 0, 1, toll), wire.Sampled)
                    return found
            except (BuildError, Refused):
                self._unusable.add(key)
            except (ChildDied, ChildTimeout):
                self._unusable.add(key)
                if self._at is not None and self._at is not at:
                    self._seating.drop(self._at)
            finally:
                self._at = at
        return None

    def _fault_of(self, baseline: _Contender, error: Exception) -> bool:
        """Whether it was the displaced op that failed, which is no fault of the solution; it is not tried again."""
        failed = error.reply.key == baseline.key if isinstance(error, Refused) else not baseline.seat.child.usable
        if failed:
            self._unusable.add(baseline.key)
            self._seating.drop(baseline.seat)
        return failed

    def _computes(self, case: Case, contender: _Contender) -> bool:
        """Whether the engine's op computes this definition at all: beating one that does not is no win.

        Shapes alone cannot tell silu from gelu; a definition matched by shape to the wrong op shows here.
        """
        known = self._right.get((case.workload.uuid, contender.key))
        if known is None:
            known = self._try_out(case, contender).passed
            self._right[case.workload.uuid, contender.key] = known
        return known


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
