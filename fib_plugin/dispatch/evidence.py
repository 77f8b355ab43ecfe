"""Evidence: which measurements count in this process, and who wins at each measured size because of them.

Fed one measurement at a time when a table is built; see `Table` for the sizes in between.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import msgspec

from fib_plugin.dataset import Measurement, compatible
from fib_plugin.dataset.measurements import LIVE, moment
from fib_plugin.dispatch.reason import Reason
from fib_plugin.ops import OpSpec
from fib_plugin.schema import ENGINE_AUTHOR, Environment

PASSED = "PASSED"

#: A size of one definition (see OpSpec.point): first key axis, class of the second.
Point = tuple[int, int]
#: Where, the lower end of the ratio, when.
_Run = tuple[Point, float, str]


class Winner(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A stored solution, without its sources.

    Args:
        hash: its content hash.
        file: where it is stored, relative to the dataset; empty when it comes from memory.
    """

    name: str
    hash: str
    author: str
    file: str = ""


class Standing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One definition's measured sizes and who won there.

    Args:
        winners: those who won anywhere.
        points: (class of the second key axis, size of the first, index of the winner or NOBODY), sorted.
    """

    winners: list[Winner]
    points: list[tuple[int, int, int]]


#: Stands for a winner at a size where the engine's op stays.
NOBODY = -1
_BEST = math.inf
_BEYOND = 1 << 62
"""No tensor is as large; a line that says so is damaged."""


class Evidence:
    """What the measurements of a dataset say about its solutions, for one environment.

    A measurement counts when it is of the solution's present content and from compatible hardware and libraries.

    - Passed ones are against the displaced op. A win against one that the dataset stores by another author than the
      engine, or with other content than was measured, does not count; one that is not stored at all cannot be held
      against it.
    - Failed ones count whatever they were compared with: a solution loses a size where it once fails.
    - Of several runs of one workload the last line counts; of the workloads of one size a solution counts with its
      worst.
    - One from a live engine counts for its whole size, and only the latest one, if nothing was measured there since:
      failed or slower loses the size, clearly faster wins it, and anything in between says nothing.

    Args:
        solutions: the stored ones by name.
        families: of each definition that has one.
    """

    def __init__(
        self,
        solutions: Mapping[str, Winner],
        families: Mapping[str, OpSpec],
        environment: Environment,
        margin: float = 0.03,
        any_hardware: bool = False,
    ) -> None:
        self.rejected: dict[str, Reason] = {}
        self._solutions = solutions
        self._families = families
        self._environment = environment
        self._least = 1 + margin
        self._any_hardware = any_hardware
        #: definition -> workload -> solution -> its last run. Names are those of `solutions`, not one copy a line.
        self._measured: dict[str, dict[str, dict[str, _Run]]] = defaultdict(lambda: defaultdict(dict))
        self._live: dict[tuple[str, str, Point], tuple[float, Measurement]] = {}
        self._last: tuple[str, dict[str, str], bool] = ("", {}, False)

    def add(self, m: Measurement) -> None:
        """Takes one more measurement; of one workload the later line counts."""
        live, passed = m.source == LIVE, m.status == PASSED
        if passed and (m.baseline == m.solution or not (m.baseline or live)):
            return  # against itself, or against nothing: in an engine it is always against the engine's op
        solution = self._solutions.get(m.solution)
        if solution is None or solution.hash != m.solution_hash:
            self.rejected[m.definition] = Reason.CHANGED_SINCE_MEASURED
            return
        if not passed and solution.author == ENGINE_AUTHOR:
            return  # the op to be displaced cannot lose against itself
        if not self._any_hardware and not self._here(m):
            self.rejected.setdefault(m.definition, Reason.NOT_MEASURED_HERE)
            return
        ratio = m.ratio_low if passed and m.ratio_low is not None else 0.0
        if ratio > self._least and self._changed(m):
            self.rejected[m.definition] = Reason.CHANGED_SINCE_MEASURED
            return
        family = self._families.get(m.definition)
        try:
            point = family.point(m.axes) if family is not None else None
        except KeyError:
            return  # an axis that decides is missing
        if point is None or not 0 <= point[0] < _BEYOND:
            return
        if live:
            key, at = (m.definition, m.solution, point), moment(m.timestamp)
            if key not in self._live or at >= self._live[key][0]:
                self._live[key] = at, m
        else:
            self._measured[m.definition][m.workload][solution.name] = point, ratio, m.timestamp

    def standings(self) -> dict[str, Standing]:
        """Per measured definition who won where: the best ratio above 1 + margin."""
        points: dict[str, dict[Point, dict[str, float]]] = {}
        for name, workloads in self._measured.items():
            sizes = points.setdefault(name, {})
            for runs in workloads.values():
                for solution, (point, ratio, _) in runs.items():
                    worst = sizes.setdefault(point, {})
                    if ratio < worst.get(solution, _BEST):
                        worst[solution] = ratio
        for (name, solution, point), (at, m) in self._live.items():
            found = self._word(m)
            if found is not None and at >= self._newest(name, solution, point):
                worst = points.setdefault(name, {}).setdefault(point, {})
                worst[solution] = min(found, worst.get(solution, _BEST))
        return {name: self._standing(sizes) for name, sizes in points.items()}

    def _word(self, m: Measurement) -> float | None:
        """The ratio that a live measurement stands for, or None when it says nothing."""
        if m.status != PASSED or (m.ratio is not None and m.ratio < min(1.0, self._least)):
            return 0.0
        return m.ratio_low if m.ratio_low is not None and m.ratio_low > self._least else None

    def _newest(self, definition: str, solution: str, point: Point) -> float:
        """When the solution was last benchmarked at this size."""
        runs = [runs[solution] for runs in self._measured.get(definition, {}).values() if solution in runs]
        return max((moment(time) for where, _, time in runs if where == point), default=-_BEST)

    def _standing(self, sizes: Mapping[Point, Mapping[str, float]]) -> Standing:
        winners: dict[str, int] = {}
        points = []
        for (size, length), ratios in sizes.items():
            ratio, name = max((ratio, name) for name, ratio in ratios.items())
            winner = winners.setdefault(name, len(winners)) if ratio > self._least else NOBODY
            points.append((length, size, winner))
        return Standing([self._solutions[name] for name in winners], sorted(points))

    def _here(self, m: Measurement) -> bool:
        # Neighbouring lines come from one run, so that remembering the last answer is enough.
        hardware, libs, answer = self._last
        if m.hardware != hardware or m.libs != libs or not hardware:
            answer = compatible(Environment(hardware=m.hardware, libs=m.libs), self._environment) is None
            self._last = m.hardware, m.libs, answer
        return answer

    def _changed(self, m: Measurement) -> bool:
        baseline = self._solutions.get(m.baseline or "")
        return baseline is not None and (baseline.author != ENGINE_AUTHOR or baseline.hash != m.baseline_hash)
