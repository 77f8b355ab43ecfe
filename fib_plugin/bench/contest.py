"""Contest: times a contender beside the op that it would displace. The examiner calls it for what is right."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fib_plugin.bench.case import Case
from fib_plugin.bench.child import Place
from fib_plugin.bench.conditions import Watch
from fib_plugin.bench.contender import Contender
from fib_plugin.bench.fouls import Caught
from fib_plugin.bench.timed import TimedJudge
from fib_plugin.bench.timing import disagrees, held_share, measure, steady
from fib_plugin.bench.turn import Turn, Uncaptured
from fib_plugin.dataset import Conditions
from fib_plugin.judge import Verdict

_TIMING_S = 0.2


@dataclass(frozen=True, slots=True)
class Times:
    """Nanoseconds of the sides' calls."""

    solution: list[float]
    baseline: list[float]
    toll: list[float]
    timing: str
    conditions: Conditions


def take_times(
    place: Place,
    latency_ns: Callable[[], float],
    case: Case,
    contender: Contender,
    baseline: Contender | None,
    check: TimedJudge | None,
) -> Times | Verdict:
    """Times of solution, displaced op and toll, or why the solution failed after all.

    All of them in CUDA graphs, or none: between plain calls a small kernel costs what Python takes to launch it.

    Args:
        place: where they run, and whether graphs are wanted.
        latency_ns: measures what asking and answering take by themselves.
        case, contender, baseline: what runs on what; a baseline may lack.
        check: judges what the contender returns meanwhile; None leaves it unjudged.

    Raises:
        Caught: its clock disagrees with the parent's.
        Refused, ChildDied, ChildTimeout: a side failed.
    """
    # Engines draw tokens outside of their graphs.
    if place.graphs and place.device != "cpu" and case.config.evaluator != "sampling":
        with contextlib.suppress(Uncaptured):
            return _take_turns(place, latency_ns(), case, contender, baseline, check, graphs=True)
    return _take_turns(place, latency_ns(), case, contender, baseline, check, graphs=False)


def _take_turns(
    place: Place,
    latency: float,
    case: Case,
    contender: Contender,
    baseline: Contender | None,
    check: TimedJudge | None,
    graphs: bool,
) -> Times | Verdict:
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
        with Watch(place.device) as watch:
            found = measure(turns, _TIMING_S, np.random.default_rng())
    except Uncaptured:
        if own.verdict is None:
            raise
    if own.verdict is not None:
        return own.verdict
    if not contender.engine and (difference := disagrees(own, found[0])):
        raise Caught("time_mismatch", difference)
    if not contender.engine and (work := own.works_between()):
        raise Caught("late_work", work)
    solution_ns, *others = steady(found)
    timing = "graph" if graphs else "plain"
    conditions = watch.conditions(held_share(found, place.threads) if place.device == "cpu" else None)
    return Times(solution_ns, others[0] if others else [], others[1] if len(others) > 1 else [], timing, conditions)
