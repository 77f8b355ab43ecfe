"""TimedJudge: judges what calls returned while they were timed. The examiner hands it to the side that it times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fib_plugin import judge
from fib_plugin.bench import wire
from fib_plugin.bench.case import Case
from fib_plugin.bench.form import check_form
from fib_plugin.bench.fouls import Foul, tagged
from fib_plugin.bench.inputs import fresh_seed
from fib_plugin.bench.seat import Seat
from fib_plugin.judge import Verdict, wrong
from fib_plugin.judge.distribution import Array


class TimedJudge:
    """Call it with the outputs of a timed call, as the child described them, and the set that it ran on."""

    def __init__(self, case: Case, device: str) -> None:
        self._case = case
        self._device = device
        self._sampler = case.config.evaluator == "sampling"
        self._levels: list[Array] = []

    def __call__(self, outputs: Sequence[wire.Output], index: int) -> Verdict:
        """By the inputs that set ``index`` holds; the outputs' data lie in the sets' blob."""
        verdict = self._judge(outputs, index)
        if verdict.passed or verdict.log.startswith("["):
            return verdict
        return tagged("wrong_values", Verdict(verdict.status, verdict.correctness, f"in a timed call: {verdict.log}"))

    def distribution(self) -> Verdict | None:
        """Why the tokens of all timed calls together are no right sampler's; None where they may be."""
        if not self._levels:
            return None
        verdict = judge.even(np.concatenate(self._levels))
        if verdict.passed:
            return None
        return tagged("wrong_values", Verdict(verdict.status, verdict.correctness, f"in timed calls: {verdict.log}"))

    def again(self, seat: Seat, key: str) -> Verdict | None:
        """After timing, other values at the old addresses: an answer that was kept from before is now wrong."""
        sets = self._case.timing
        index = fresh_seed() % len(sets)
        with sets.lent(index, self._case.again.inputs):
            sets.poison()
            seat.ask(wire.Ping([wire.Fresh(index)]), wire.Ready)
            seat.ask(wire.Burst(key, index, 1), wire.Sampled)
            kept = seat.ask(wire.Keep(key, sets.name, sets.output), wire.Kept)
            verdict = self._judge(kept.outputs, index)
        if verdict.passed:
            return None
        foul: Foul = "input_written" if verdict.log.startswith("[input_written]") else "stale_output"
        log = f"after timing, on changed inputs: {verdict.log.removeprefix('[input_written] ')}"
        return tagged(foul, Verdict(verdict.status, verdict.correctness, log))

    def _judge(self, outputs: Sequence[wire.Output], index: int) -> Verdict:
        case, sets = self._case, self._case.timing
        verdict = check_form(case.definition, sets.output, outputs, self._device)
        if verdict is not None:
            return verdict
        names = list(case.definition.inputs)
        written = [names[i] for i in sets.written(index) if names[i] not in case.config.mutates]
        if written:
            return tagged("input_written", wrong(f"a timed call wrote to its inputs: {', '.join(written)}"))
        found, inputs = sets.outputs(len(outputs)), sets.inputs[index]
        if not self._sampler:
            return judge.outputs(case.definition, found, case.right(inputs), case.config.tolerance)
        verdict = judge.draws(case.definition, inputs, found[:1])
        if verdict.passed:
            self._levels.append(judge.levels(case.definition, inputs, found[0]))
        return verdict
