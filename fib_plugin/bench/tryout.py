"""Tryout: whether a contender is right, on inputs that it has not seen. The examiner calls it before anything is timed.

What is right is known here, in the parent; the child has nothing but the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fib_plugin import judge
from fib_plugin.bench import wire
from fib_plugin.bench.case import Case, DrawSet, Trial
from fib_plugin.bench.contender import Contender
from fib_plugin.bench.form import check_form
from fib_plugin.bench.fouls import Caught, tagged
from fib_plugin.judge import Verdict, wrong
from fib_plugin.schema import Correctness, EvaluationStatus

_DRAWING_S = 0.2
_SLOW_CALL_S = 1.0


@dataclass(frozen=True, slots=True)
class Tried:
    """The verdict, with the worst errors of all trials, and what was returned in the first one."""

    verdict: Verdict
    first: list[Any]


def try_out(case: Case, contender: Contender) -> Tried:
    """Correctness on fresh inputs."""
    verdicts: list[Verdict] = []
    first: list[Any] = []
    for trial in case.trials:
        trial.arm()
        ran = contender.seat.ask(wire.Run(contender.key, trial.name, trial.layout), wire.Ran)
        verdict = _judge(case, trial, ran, contender)
        if not verdict.passed:
            return Tried(verdict, first)
        first = first or trial.outputs()[: len(ran.outputs)]
        if ran.changed_late and not contender.engine:
            raise Caught("late_work", "what it returned changed after it was returned")
        verdicts.append(verdict)
        if ran.seconds > _SLOW_CALL_S:  # such a solution has lost; spend no more on it than needed
            break
    if case.draws is not None:
        return Tried(_judge_draws(case, case.draws, contender), first)
    return Tried(_worst(verdicts, case), first)


def _judge(case: Case, trial: Trial, ran: wire.Ran, contender: Contender) -> Verdict:
    fewer, device = contender.engine, contender.seat.child.place.device
    written = trial.changed_inputs(case.definition, case.config.mutates)
    amiss = trial.written_amiss(case.definition, case.config) if case.config.mutates and not fewer else ""
    if written or case.config.mutates:
        trial.restore()
    verdict = check_form(case.definition, trial.layout, ran.outputs, device, fewer)
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


def _judge_draws(case: Case, draws: DrawSet, contender: Contender) -> Verdict:
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
    return verdict.noting(seeds=list(case.seeds))
