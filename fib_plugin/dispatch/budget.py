"""Budget: how much of an engine's time probation may take: a fixed sum for the warm-up, and a small share after it."""

from __future__ import annotations

import time


class Budget:
    """Time that comparing may cost, in seconds.

    Args:
        initial_s: what may be spent at once; engines meet most sizes in their warm-up.
        share: of the time that has passed since, so that a traffic of ever new sizes is not slowed down.
    """

    def __init__(self, initial_s: float = 20.0, share: float = 0.005) -> None:
        self._initial_s = initial_s
        self._share = share
        self._start = time.monotonic()
        self.spent_s = 0.0

    def open(self) -> bool:
        """Whether there is anything left to spend."""
        return self.spent_s <= self._initial_s + self._share * (time.monotonic() - self._start)
