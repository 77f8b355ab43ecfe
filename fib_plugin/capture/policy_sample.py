"""Which calls of a stream are looked at: by a rate, or a fixed number of them whatever the stream's length.

Both draw how many calls to let pass, so that a call that is let pass costs a countdown and no random number.
"""

from __future__ import annotations

import heapq
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

    ``wait`` calls pass; the next one ``enter``s. Each call stands for a random key in (0, 1), and those of the smallest
    keys are in: the k smallest keys of several reservoirs together are a reservoir of all their streams.
    """

    __slots__ = ("_k", "_keys", "_random", "wait")

    def __init__(self, k: int, source: random.Random) -> None:
        self.wait = 0
        self._k = k
        self._random = source
        #: (minus key, slot): the largest key comes first.
        self._keys: list[tuple[float, int]] = []

    def enter(self) -> tuple[int, float]:
        """The slot that the call takes, from the call of the largest key if it is not free, and the call's key."""
        keys = self._keys
        uniform = 1.0 - self._random.random()
        if len(keys) < self._k:
            slot, key = len(keys), uniform
            heapq.heappush(keys, (-key, slot))
        else:
            # Of a call that is known to enter: its key lies below the largest.
            slot, key = keys[0][1], uniform * -keys[0][0]
            heapq.heapreplace(keys, (-key, slot))
        if len(keys) == self._k:
            self._next(-keys[0][0])
        return slot, key

    def _next(self, largest: float) -> None:
        left = math.log1p(-largest) if largest < 1 else -math.inf
        gap = math.log(1.0 - self._random.random()) / left if left else FOREVER
        self.wait = min(FOREVER, int(gap))
