"""Which calls of a stream are looked at: by a rate, or a fixed number of them whatever the stream's length.

Both draw how many calls to let pass, so that a call that is let pass costs a countdown and no random number.
"""

from __future__ import annotations

import math
import random

#: A gap that no engine outlives; what is drawn stays below it, since a tiny rate may give any number.
FOREVER = 1 << 60


class Gaps:
    """Calls to let pass between two that are looked at, for a rate: geometric, so every call is as likely as another.

    >>> Gaps(1.0, random.Random(0)).draw()
    0
    """

    __slots__ = ("_log", "_random", "rate")

    def __init__(self, rate: float, source: random.Random) -> None:
        self.rate = rate
        self._random = source
        self._log = math.log1p(-rate) if 0 < rate < 1 else 0.0

    def draw(self) -> int:
        """Calls to let pass before the next one."""
        if self.rate >= 1:
            return 0
        if self.rate <= 0:
            return FOREVER
        return min(FOREVER, int(math.log(1.0 - self._random.random()) / self._log))


class Reservoir:
    """``k`` calls of a stream of unknown length, each as likely as another (Li's algorithm L, 1994).

    ``wait`` calls pass; the next one ``enter``s and takes the place of the one in the slot that is returned.
    """

    __slots__ = ("_filled", "_k", "_random", "_weight", "wait")

    def __init__(self, k: int, source: random.Random) -> None:
        self.wait = 0
        self._k = k
        self._random = source
        self._filled = 0
        self._weight = 1.0

    def enter(self) -> int:
        """The slot of the call that is due; draws how many pass before the next."""
        if self._filled < self._k:
            self._filled += 1
            if self._filled == self._k:
                self._next()
            return self._filled - 1
        slot = self._random.randrange(self._k)
        self._next()
        return slot

    def _next(self) -> None:
        self._weight *= math.exp(math.log(1.0 - self._random.random()) / self._k)
        left = math.log1p(-self._weight) if self._weight < 1 else -math.inf
        gap = math.log(1.0 - self._random.random()) / left if left else FOREVER
        self.wait = min(FOREVER, int(gap))
