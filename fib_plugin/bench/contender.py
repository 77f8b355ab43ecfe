"""Contender: a solution, or the op that it would displace, built and ready in its seat."""

from __future__ import annotations

from dataclasses import dataclass

from fib_plugin.bench.seat import Seat
from fib_plugin.schema import ENGINE_AUTHOR, Solution


@dataclass(frozen=True, slots=True)
class Contender:
    """A solution that is built, in its seat."""

    solution: Solution
    seat: Seat
    key: str
    #: What an engine's op needs once a workload before its calls (its ``plan``), apart from their times; None: nothing.
    setup_ms: float | None = None

    @property
    def engine(self) -> bool:
        """It is the engine's own op: it may leave out outputs, and keep what it derived from weights."""
        return self.solution.author == ENGINE_AUTHOR
