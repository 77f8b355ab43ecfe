"""Cache: how many input sets take turns in a timing, and what that makes of the device's last-level cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from typing_extensions import Self

_MOST_SETS = 12
#: No burst is longer than one round of the sets, so where they are small there are more of them.
_MANY_BYTES = 64 << 20
MANY_SETS, MANY_SETS_OF_A_GPU = 256, 32
_MOST_SET_BYTES = 512 << 20
#: A round of this many caches leaves nothing for the next one, also where a cache does not drop the oldest first.
_CACHES = 2


@dataclass(frozen=True, slots=True)
class Cache:
    """``state``: ``cold`` where no call finds its inputs in the cache, ``warm`` where it may; ``sets`` take turns.

    ``asked``: more sets would have made it cold, and a warm one was asked for.
    """

    sets: int
    state: Literal["cold", "warm"]
    asked: bool = False

    @classmethod
    def of(cls, size: int, cache: int, warm: bool = False, many: int = 0) -> Self:
        """For inputs of ``size`` bytes and a ``cache`` of so many.

        In an engine each layer has weights of its own, so a round of the sets is not to fit the cache. Small inputs
        stay warm, as they are in an engine, where the kernel before has just written them.

        ``many``: of small inputs so many sets at most, for clocks that cannot time a dozen quick calls.
        """
        size = max(size, 1)
        wanted = -(-_CACHES * cache // size)
        fewest = 2 if size < _MOST_SET_BYTES // 2 else 1
        count = max(fewest, min(wanted, _MOST_SETS, _MOST_SET_BYTES // size))
        if many:
            count = max(count, min(many, _MANY_BYTES // size))
        cold = count >= wanted
        if warm:
            return cls(1, "warm", cold)
        return cls(count, "cold" if cold else "warm")

    @property
    def repeats(self) -> bool:
        """Whether calls in a row are on the same inputs, as was asked for: an answer that is kept is not found out."""
        return self.sets == 1 and self.state == "warm"
