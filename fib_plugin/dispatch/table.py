"""Who runs what: for a definition and a live size, the solution proven faster here than the op it displaces.

Built once from a dataset's measurements; read by the runtime when a call site meets a new size.
"""

from __future__ import annotations

import bisect
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from fib_plugin import ops
from fib_plugin.dataset import Measurement, TraceSet, compatible, load_measurements
from fib_plugin.dispatch.reason import Reason
from fib_plugin.schema import Environment, SchemaError, Solution, content_hash

logger = logging.getLogger("fib_plugin")

#: Outside the measured sizes, up to this factor from the nearest one, its winner still counts.
REACH = 2.0


@dataclass(slots=True)
class Choice:
    """The solution to run, or the reason for running the engine's own op."""

    solution: Solution | None
    reason: Reason | None


@dataclass(slots=True)
class _Measured:
    """One definition's winners: class of the second key axis -> sorted sizes of the first, and who won there."""

    sizes: dict[int, list[int]] = field(default_factory=dict)
    winners: dict[tuple[int, int], Solution | None] = field(default_factory=dict)


class Table:
    """The proven choices of one dataset on one machine."""

    def __init__(self, measured: dict[str, _Measured], rejected: dict[str, Reason]) -> None:
        self._measured = measured
        self._rejected = rejected

    @classmethod
    def build(
        cls, traces: TraceSet, environment: Environment, margin: float = 0.03, any_hardware: bool = False
    ) -> Table:
        """The table of ``traces`` for ``environment``.

        A point (definition, size) is won by the solution with the best ``ratio_low`` above ``1 + margin``; where a
        point holds several workloads, a solution counts with its worst. Only passed measurements count, of the
        solution's present content, with compatible hardware and libraries.
        """
        by_name = {s.name: s for group in traces.solutions.values() for s in group}
        hashes = {name: content_hash(s) for name, s in by_name.items()}
        latest: dict[tuple[str, str, str], Measurement] = {}
        rejected: dict[str, Reason] = {}
        problems: list[SchemaError] = []
        for m in load_measurements(traces.root, problems) if traces.root is not None else []:
            if m.baseline == m.solution or not m.baseline:
                continue
            if m.solution not in by_name or hashes[m.solution] != m.solution_hash:
                rejected[m.definition] = Reason.CHANGED_SINCE_MEASURED
            elif not any_hardware and compatible(Environment(hardware=m.hardware, libs=m.libs), environment):
                rejected.setdefault(m.definition, Reason.NOT_MEASURED_HERE)
            else:
                latest[m.definition, m.solution, m.workload] = m
        for problem in problems:
            logger.warning("dataset: %s", problem)
        points: dict[str, dict[tuple[int, int], dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for (name, solution, _), m in latest.items():
            definition = traces.definitions.get(name)
            family = ops.family_of(definition) if definition is not None else None
            if family is None or not all(axis in m.axes for axis in family.key_axes):
                continue
            worst = points[name][family.point(m.axes)]
            ratio = m.ratio_low if m.status == "PASSED" and m.ratio_low is not None else 0.0
            worst[solution] = min(ratio, worst.get(solution, ratio))
        measured = {name: _winners(sizes, by_name, margin) for name, sizes in points.items()}
        return cls(measured, rejected)

    def choose(self, definition: str, point: tuple[int, int]) -> Choice:
        """The choice at ``point`` (see OpSpec.point): exact size, else both neighbours must agree."""
        measured = self._measured.get(definition)
        if measured is None:
            return Choice(None, self._rejected.get(definition, Reason.NO_SOLUTION))
        if point in measured.winners:
            return _choice(measured.winners[point])
        size, length = point
        sizes = measured.sizes.get(length, [])
        at = bisect.bisect(sizes, size)
        near = [sizes[i] for i in (at - 1, at) if 0 <= i < len(sizes)]
        if not near or (len(near) == 1 and not near[0] / REACH <= size <= near[0] * REACH):
            return Choice(None, Reason.UNMEASURED_SHAPE)
        winners = [measured.winners[n, length] for n in near]
        first = winners[0]
        same = first is not None and all(w is not None and w.name == first.name for w in winners)
        return _choice(first if same else None)

    def definitions(self) -> list[str]:
        """Definitions for which at least one size has a winner: only their ops need to be patched."""
        return [name for name, m in self._measured.items() if any(m.winners.values())]

    def explain(self) -> dict[str, str]:
        """Per definition: the sizes won and by whom, or why none; for ``fib doctor``."""
        lines = {name: reason.value for name, reason in self._rejected.items()}
        for name, m in self._measured.items():
            won = [f"{size}: {w.name}" for (size, _), w in sorted(m.winners.items()) if w is not None]
            lines[name] = ", ".join(won) or Reason.NOT_FASTER.value
        return lines


def _winners(
    points: Mapping[tuple[int, int], Mapping[str, float]], by_name: Mapping[str, Solution], margin: float
) -> _Measured:
    result = _Measured()
    for point in sorted(points):
        ratio, name = max((ratio, name) for name, ratio in points[point].items())
        result.winners[point] = by_name[name] if ratio > 1 + margin else None
        result.sizes.setdefault(point[1], []).append(point[0])
    return result


def _choice(winner: Solution | None) -> Choice:
    return Choice(winner, Reason.NOT_FASTER if winner is None else None)
