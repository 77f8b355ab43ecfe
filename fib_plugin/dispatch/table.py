"""Who runs what: for a definition and a live size, the solution proven faster here than the op it displaces.

Pure choice rules over what `Evidence` found. Engines ask through a `Catalog`, which keeps a table on disk.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass

from fib_plugin import ops
from fib_plugin.dispatch.evidence import NOBODY, Standing, Winner
from fib_plugin.dispatch.reason import Reason

#: Outside the measured sizes, up to this factor from the nearest one, its winner still counts.
REACH = 2.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Who runs, or the reason for running the engine's own op."""

    winner: Winner | None
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class Table:
    """The proven choices of one dataset on one machine.

    Args:
        standings: per definition that was measured.
        rejected: why measurements of a definition did not count, if any did not.
    """

    standings: Mapping[str, Standing]
    rejected: Mapping[str, Reason]

    def choose(self, definition: str, point: tuple[int, int]) -> Choice:
        """The choice at ``point`` (see OpSpec.point): exact size, else both neighbours must agree.

        For ANY_LENGTH one solution must win in every length class that was measured around this size.
        """
        standing = self.standings.get(definition)
        if standing is None:
            return Choice(None, self.rejected.get(definition, Reason.NO_SOLUTION))
        size, length = point
        if length == ops.ANY_LENGTH:
            return self._choose_for_all(definition, standing, size)
        at = bisect.bisect_left(standing.points, (length, size))
        if at < len(standing.points) and standing.points[at][:2] == (length, size):
            return self._choice(standing, standing.points[at][2])
        near = [standing.points[i] for i in (at - 1, at) if 0 <= i < len(standing.points)]
        near = [found for found in near if found[0] == length]
        if not near or (len(near) == 1 and not near[0][1] / REACH <= size <= near[0][1] * REACH):
            return Choice(None, Reason.UNMEASURED_SHAPE)
        winners = {winner for _, _, winner in near}
        return self._choice(standing, winners.pop() if len(winners) == 1 else NOBODY)

    def _choose_for_all(self, definition: str, standing: Standing, size: int) -> Choice:
        classes = sorted({length for length, _, _ in standing.points})
        choices = [self.choose(definition, (size, length)) for length in classes]
        known = {choice for choice in choices if choice.reason is not Reason.UNMEASURED_SHAPE}
        if not known:
            return Choice(None, Reason.UNMEASURED_SHAPE)
        return known.pop() if len(known) == 1 else Choice(None, Reason.NOT_FASTER)

    def definitions(self) -> list[str]:
        """Definitions for which at least one size has a winner: only their ops need to be patched."""
        return [name for name, standing in self.standings.items() if standing.winners]

    def winners(self) -> list[Winner]:
        """All who win anywhere, by name: what an operator may want to trust."""
        found = {winner.name: winner for standing in self.standings.values() for winner in standing.winners}
        return [found[name] for name in sorted(found)]

    def explain(self) -> dict[str, str]:
        """Per definition: the sizes won and by whom, or why none; for ``fib doctor``."""
        lines = {name: reason.value for name, reason in self.rejected.items()}
        for name, standing in self.standings.items():
            sizes = sorted((size, length, winner) for length, size, winner in standing.points)
            won = [f"{size}: {standing.winners[winner].name}" for size, _, winner in sizes if winner != NOBODY]
            lines[name] = ", ".join(won) or Reason.NOT_FASTER.value
        return lines

    def _choice(self, standing: Standing, at: int) -> Choice:
        if at == NOBODY:
            return Choice(None, Reason.NOT_FASTER)
        winner = standing.winners[at]
        return Choice(winner, None)
