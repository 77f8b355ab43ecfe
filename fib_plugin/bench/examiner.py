"""Examiner: takes one solution through one case: has it built and run in a child, judges, has it timed.

What it knows is right, and the clock that counts, are in this process, which never runs a solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import msgspec
from typing_extensions import Self

from fib_plugin.bench import wire
from fib_plugin.bench.case import Case
from fib_plugin.bench.child import ChildDied, ChildTimeout, Place
from fib_plugin.bench.conduct import check_conduct, check_floor, check_helpers, check_replaced
from fib_plugin.bench.contender import Contender
from fib_plugin.bench.contest import Times, take_times
from fib_plugin.bench.forkserver import ServerLost
from fib_plugin.bench.fouls import Caught, Foul, tagged
from fib_plugin.bench.nursery import Nursery
from fib_plugin.bench.seat import Refused, Seat
from fib_plugin.bench.seating import Seating
from fib_plugin.bench.timed import TimedJudge
from fib_plugin.bench.tryout import try_out
from fib_plugin.build import BuildError, lay_down
from fib_plugin.dataset.conditions import NOTHING_KNOWN, Conditions
from fib_plugin.judge import Ratio, Verdict, median_ms, ratio, together
from fib_plugin.schema import ENGINE_AUTHOR, EvaluationStatus, Solution, content_hash

#: A build may import an engine or compile; both are slow once and not the kernel's doing.
_BUILD_S = 240.0
_TRACED_CALLS = 8
_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdict on a solution, its time, and how it compares with the displaced op, if there is one."""

    verdict: Verdict
    solution_ms: float | None = None
    ratio: Ratio | None = None
    baseline: Solution | None = None
    #: How it was timed: "graph" for replays of CUDA graphs, or "plain" calls.
    timing: str = ""
    conditions: Conditions = NOTHING_KNOWN
    #: What the displaced op prepares once a workload, before its calls.
    baseline_setup_ms: float | None = None
    #: By CUPTI, of one call: how long its kernels ran, and how many they were.
    device_ms: float | None = None
    launches: float | None = None


class Examiner:
    """Use as a context manager; leaving it ends the children, which ``nursery`` started."""

    def __init__(self, place: Place, timeout: float, nursery: Nursery) -> None:
        self._place = place
        self._timeout = timeout
        self._nursery = nursery
        self._seating = Seating(place, nursery)
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
        """Run ``solution`` on ``case``; the first usable op of ``displaced`` is timed beside it.

        When the fork server is killed meanwhile, all is begun again, once: who did it is not known.

        Raises:
            BrokenReference: the reference failed on a timed call's inputs.
            ServerDied: no fork server can be started here.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._attempt(case, solution, displaced)
            except ServerLost as lost:
                log = f"{lost}, each of {_ATTEMPTS} times that it was tried"
        return Outcome(tagged("sandbox", Verdict(EvaluationStatus.RUNTIME_ERROR, log=log)))

    def _attempt(self, case: Case, solution: Solution, displaced: Sequence[Solution]) -> Outcome:
        outcome, self._at = None, None
        try:
            self._seating.enter(case)
            outcome = self._traced(self._examine(case, solution, displaced), solution)
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

    def _traced(self, outcome: Outcome, solution: Solution) -> Outcome:
        """With what the device says of the solution's kernels, where that was asked for and can be told."""
        seat = self._at
        if not (self._place.kernels and self._place.device.startswith("cuda") and outcome.verdict.passed and seat):
            return outcome
        try:
            found = seat.ask(wire.Trace(content_hash(solution), _TRACED_CALLS), wire.Traced)
        except (Refused, ChildDied, ChildTimeout):
            return outcome
        finally:
            self._seating.drop(seat)  # CUPTI stays, and would slow down whatever is timed there next
        if found.why:
            return outcome
        if not (found.launches or found.device_ns) and solution.author != ENGINE_AUTHOR:
            raise Caught("no_kernel", "its calls had the GPU do nothing at all, by CUPTI's account")
        return replace(outcome, device_ms=found.device_ns / 1e6, launches=found.launches)

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
        tried = try_out(case, contender)
        verdict = tried.verdict
        if contender.engine:
            self._right[case.workload.uuid, contender.key] = verdict.passed
        if not verdict.passed:
            return Outcome(verdict)
        if not contender.engine:
            check_helpers(contender.seat)
            check_replaced(contender.seat, contender.key)
            same = check_conduct(case, contender.seat, contender.key, solution, tried.first)
            verdict = verdict if same is None else verdict.noting(deterministic=same)
        baseline = self._baseline(case, solution, displaced)
        # The engine's own op may keep what it derived from weights, as it does in the engine: they never change.
        check = None if contender.engine else TimedJudge(case, self._place.device)
        try:
            timed = self._times(case, contender, baseline, check)
        except (Refused, ChildDied, ChildTimeout) as error:
            if baseline is None or not self._fault_of(baseline, error):
                raise
            baseline = None
            timed = self._times(case, contender, None, check)
        if isinstance(timed, Verdict):
            return Outcome(timed)
        if check is not None:
            check_replaced(contender.seat, contender.key)
            check_helpers(contender.seat)
            check_floor(case, self._place, median_ms(timed.solution))
            late = check.distribution() or check.again(contender.seat, contender.key)
            if late is not None:
                return Outcome(late)
        if baseline is None:
            return Outcome(verdict, median_ms(timed.solution), timing=timed.timing, conditions=timed.conditions)
        outcome = _compared(verdict, timed, baseline)
        assert outcome.ratio is not None
        if outcome.ratio.low <= 1.0:
            return outcome
        again = self._look_again(case, contender, baseline, check)
        if isinstance(again, Verdict):
            return Outcome(again)
        return _both(outcome, _compared(verdict, again, baseline) if again is not None else None)

    def _look_again(
        self, case: Case, contender: Contender, baseline: Contender, check: TimedJudge | None
    ) -> Times | Verdict | None:
        """Times of what seems to win, in processes that have run nothing yet; None where the displaced op failed.

        How fast a process is has to do with where its memory happens to lie, for as long as it lives, and a busy host
        may be busy for one side: a win has to be seen twice. A trusted child, slow to start, gets its sets anew.
        """
        self._seating.drop(contender.seat)
        if baseline.seat.child.sandboxed:
            self._seating.drop(baseline.seat)
        else:
            baseline.seat.detach()
        contender = self._build(case, contender.solution)
        other = self._baseline(case, contender.solution, [baseline.solution])
        if other is None:
            return None
        try:
            timed = self._times(case, contender, other, check)
        except (Refused, ChildDied, ChildTimeout) as error:
            if not self._fault_of(other, error):
                raise
            return None
        if check is not None and not isinstance(timed, Verdict):
            check_replaced(contender.seat, contender.key)
            check_helpers(contender.seat)
        return timed

    def _build(self, case: Case, solution: Solution) -> Contender:
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
        return Contender(solution, seat, key)

    def _times(
        self, case: Case, contender: Contender, baseline: Contender | None, check: TimedJudge | None
    ) -> Times | Verdict:
        return take_times(self._place, self._nursery.latency_ns, case, contender, baseline, check)

    def _baseline(self, case: Case, solution: Solution, displaced: Sequence[Solution]) -> Contender | None:
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
                    first = found.seat.ask(wire.Burst(key, 0, 1), wire.Sampled)
                    if not found.seat.child.sandboxed:
                        found.seat.ask(wire.Burst(key, 0, 1, toll=True), wire.Sampled)
                    return replace(found, setup_ms=first.setup_ns / 1e6 if first.setup_ns else None)
            except (BuildError, Refused):
                self._unusable.add(key)
            except (ChildDied, ChildTimeout):
                self._unusable.add(key)
                if self._at is not None and self._at is not at:
                    self._seating.drop(self._at)
            finally:
                self._at = at
        return None

    def _fault_of(self, baseline: Contender, error: Exception) -> bool:
        """Whether it was the displaced op that failed, which is no fault of the solution; it is not tried again."""
        failed = error.reply.key == baseline.key if isinstance(error, Refused) else not baseline.seat.child.usable
        if failed:
            self._unusable.add(baseline.key)
            self._seating.drop(baseline.seat)
        return failed

    def _computes(self, case: Case, contender: Contender) -> bool:
        """Whether the engine's op computes this definition at all: beating one that does not is no win.

        Shapes alone cannot tell silu from gelu; a definition matched by shape to the wrong op shows here.
        """
        known = self._right.get((case.workload.uuid, contender.key))
        if known is None:
            known = try_out(case, contender).verdict.passed
            self._right[case.workload.uuid, contender.key] = known
        return known


def _compared(verdict: Verdict, timed: Times, baseline: Contender) -> Outcome:
    found = ratio(timed.solution, timed.baseline, timed.toll)
    return Outcome(
        verdict, median_ms(timed.solution), found, baseline.solution, timed.timing, timed.conditions, baseline.setup_ms
    )


def _both(first: Outcome, second: Outcome | None) -> Outcome:
    """Two looks at what seemed to win; without a second one there is no win."""
    assert first.ratio is not None
    if second is None or second.ratio is None:
        return replace(first, ratio=replace(first.ratio, low=min(first.ratio.low, 1.0)))
    found = together(first.ratio, second.ratio)
    throttled = tuple(dict.fromkeys((*first.conditions.throttled, *second.conditions.throttled)))
    conditions = msgspec.structs.replace(second.conditions, throttled=throttled)
    # What the displaced op prepares was measured where it had compiled already.
    return replace(second, solution_ms=found.solution_ms, ratio=found, conditions=conditions)
