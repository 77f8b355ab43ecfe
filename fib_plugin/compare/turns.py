"""Turns: both sides measured round by round; who is first alternates, so that order favours neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping

#: Told of each measurement: round (0 and below warm up), side, value.
Tell = Callable[[int, str, float], None]


def in_turns(
    sides: Mapping[str, Callable[[], float]],
    rounds: int,
    *,
    warmup: int = 1,
    tell: Tell = lambda number, side, value: None,
) -> dict[str, list[float]]:
    """What each side measured in ``rounds`` rounds, after ``warmup`` rounds that do not count."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1 - warmup, rounds + 1):
        order = list(sides)[:: 1 if number % 2 else -1]
        for name in order:
            value = sides[name]()
            tell(number, name, value)
            if number > 0:
                taken[name].append(value)
    return taken
