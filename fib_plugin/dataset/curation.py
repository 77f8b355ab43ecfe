"""Which of many captured workloads stand for all of them. Pure: numbers in, identities out; `curate` does the files.

What is kept depends on the workloads' contents and the counted calls alone, never on the order of files or on uuids.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Axes = Mapping[str, int]
Point = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KeyAxes:
    """The axes that decide which kernel wins, and how workloads are laid out along them.

    Args:
        names: the axes; others, such as the size of a page pool, do not matter.
        entries: one of them that counts the KV entries of all requests together, if there is one.
        requests: the axis whose size is the number of requests and one more (an indptr's length).

    >>> decode = KeyAxes(("batch_size", "num_kv_indices"), "num_kv_indices", "len_indptr")
    >>> decode.point({"batch_size": 4, "len_indptr": 5, "num_kv_indices": 400})
    (4, 100)
    """

    names: tuple[str, ...]
    entries: str | None = None
    requests: str | None = None

    def sizes(self, axes: Axes) -> Point:
        """The sizes of the key axes themselves."""
        return tuple(axes.get(name, 0) for name in self.names)

    def point(self, axes: Axes) -> Point:
        """The same with KV entries a request instead of all of them."""
        requests = max(1, axes.get(self.requests or "", 2) - 1)
        return tuple(axes.get(name, 0) // (requests if name == self.entries else 1) for name in self.names)

    def cell(self, axes: Axes) -> Point:
        """Its class: along each axis 0, 1, 2-3, 4-7, 8-15, ..."""
        return tuple(size.bit_length() for size in self.point(axes))

    def labels(self) -> list[str]:
        """What the numbers of a point are."""
        return [f"{name} per request" if name == self.entries else name for name in self.names]

    def distance(self, a: Axes, b: Axes) -> float:
        """How far apart two sizes are, in doublings."""
        pairs = zip(self.point(a), self.point(b), strict=True)
        return math.hypot(*(math.log2((x + 1) / (y + 1)) for x, y in pairs))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A workload: its content's identity and its axes."""

    identity: str
    axes: Axes


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls that were counted at one shape."""

    axes: Axes
    count: int


@dataclass(slots=True)
class _Group:
    """Candidates whose key axes agree; which of them a call resembles more is not counted."""

    point: Point
    cell: Point
    sizes: Point
    calls: int = 0
    work: float = 0.0
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def rank(self) -> tuple[int, str]:
        """Most called first; content decides between equals."""
        return -self.calls, self.candidates[0].identity


def select(
    candidates: Iterable[Candidate],
    calls: Iterable[Calls],
    keys: KeyAxes,
    work: Callable[[Axes], float],
    keep: int,
) -> set[str]:
    """Identities of at most `keep` workloads that represent all of them.

    When there are more, they are taken in this order until there are `keep`:

    1. extremes: the smallest and the largest along each key axis, and of `work`;
    2. the most called shapes, up to a quarter of `keep`;
    3. one for each class along each axis that has none yet (the most called shape of the class);
    4. one for each combination of classes that has none yet, most called combinations first;
    5. the remaining shapes, most called first;
    6. further contents at shapes that have one, one of each shape in turn.
    """
    known = {candidate.identity: candidate for candidate in candidates}
    if len(known) <= keep:
        return set(known)
    counted = list(calls)
    groups = _groups(known.values(), counted, keys, work)
    chosen: dict[str, None] = {}
    for identity in _in_order(groups, counted, keys, keep, chosen):
        if len(chosen) >= keep:
            break
        chosen[identity] = None
    return set(chosen)


def _groups(
    candidates: Iterable[Candidate], calls: Sequence[Calls], keys: KeyAxes, work: Callable[[Axes], float]
) -> list[_Group]:
    groups: dict[Point, _Group] = {}
    exactly: dict[tuple[tuple[str, int], ...], int] = defaultdict(int)
    for candidate in candidates:
        axes, sizes = candidate.axes, keys.sizes(candidate.axes)
        group = groups.setdefault(sizes, _Group(keys.point(axes), keys.cell(axes), sizes))
        group.candidates.append(candidate)
    for call in calls:
        exactly[_spelled(call.axes)] += call.count
        if (known := groups.get(keys.sizes(call.axes))) is not None:
            known.calls += call.count
    for group in groups.values():
        group.candidates.sort(key=lambda one: (-exactly.get(_spelled(one.axes), 0), one.identity))
        group.work = work(group.candidates[0].axes)
    return sorted(groups.values(), key=lambda group: group.rank)


def _in_order(
    groups: Sequence[_Group], calls: Sequence[Calls], keys: KeyAxes, keep: int, chosen: Mapping[str, None]
) -> Iterator[str]:
    """Identities in the order of `select`; `chosen` is looked at again for every step. Groups come by rank."""

    def taken() -> list[_Group]:
        return [group for group in groups if group.candidates[0].identity in chosen]

    for group in _extremes(groups, len(keys.names)):
        yield group.candidates[0].identity
    for group in groups[: max(1, keep // 4)]:
        if group.calls:
            yield group.candidates[0].identity
    weight: dict[Point, int] = defaultdict(int)
    for call in calls:
        weight[keys.cell(call.axes)] += call.count
    for axis in range(len(keys.names)):
        marginal: dict[int, int] = defaultdict(int)
        for cell, count in weight.items():
            marginal[cell[axis]] += count
        covered = {group.cell[axis] for group in taken()}
        missing = {group.cell[axis] for group in groups} - covered
        for size in sorted(missing, key=lambda size: (-marginal[size], size)):
            yield next(group for group in groups if group.cell[axis] == size).candidates[0].identity
    empty = {group.cell for group in groups} - {group.cell for group in taken()}
    for cell in sorted(empty, key=lambda cell: (-weight[cell], cell)):
        yield next(group for group in groups if group.cell == cell).candidates[0].identity
    for depth in range(max(len(group.candidates) for group in groups)):
        for group in groups:
            if depth < len(group.candidates):
                yield group.candidates[depth].identity


def _extremes(groups: Sequence[_Group], axes: int) -> Iterator[_Group]:
    # min and max take the first of equals: the one of higher rank.
    for axis in range(axes):
        for numbers in ("point", "sizes"):
            for pick in (min, max):
                yield pick(groups, key=lambda group: getattr(group, numbers)[axis])
    for pick in (min, max):
        yield pick(groups, key=lambda group: group.work)


@dataclass(frozen=True, slots=True)
class Standing:
    """How much of what ran the kept workloads stand for; None where no calls were counted.

    A kept workload stands for a call *exactly* when all key axes are equal. It stands for it *by class* when it is the
    nearest kept workload (in doublings, over the key axes) among those of the call's class; the class is that of
    `KeyAxes.cell`. Calls in a class of which nothing was kept, or whose axes cannot be read, are stood for by nothing.
    Shares of time weigh a call by its cost instead of by one.

    A count can itself stand for several sizes: attention is counted by class, under the axes of the first such call.
    """

    calls: int
    exact: float | None
    by_class: float | None
    exact_time: float | None
    by_class_time: float | None
    time: float
    """Cost of all calls."""
    stands_for: dict[str, int]
    """Calls by identity of the kept workload that stands for them, exactly or by class."""


def standing(
    kept: Iterable[Candidate], calls: Iterable[Calls], keys: KeyAxes, cost: Callable[[Axes], float], unread: int = 0
) -> Standing:
    """What the kept workloads stand for.

    Args:
        cost: estimated time of one call.
        unread: calls whose axes could not be read.
    """
    cells: dict[Point, list[Candidate]] = defaultdict(list)
    stands_for: dict[str, int] = {}
    for candidate in sorted(kept, key=lambda one: one.identity):
        cells[keys.cell(candidate.axes)].append(candidate)
        stands_for[candidate.identity] = 0
    total = unread
    sums = dict.fromkeys(("exact", "by_class", "time", "exact_time", "by_class_time"), 0.0)
    for call in calls:
        time = cost(call.axes) * call.count
        total += call.count
        sums["time"] += time
        rivals = cells.get(keys.cell(call.axes))
        if not rivals:
            continue
        nearest = min(rivals, key=lambda one: (_apart(keys, one.axes, call.axes), one.identity))
        stands_for[nearest.identity] += call.count
        sums["by_class"] += call.count
        sums["by_class_time"] += time
        if keys.sizes(nearest.axes) == keys.sizes(call.axes):
            sums["exact"] += call.count
            sums["exact_time"] += time
    return Standing(
        calls=total,
        exact=_share(sums["exact"], total),
        by_class=_share(sums["by_class"], total),
        exact_time=_share(sums["exact_time"], sums["time"]),
        by_class_time=_share(sums["by_class_time"], sums["time"]),
        time=sums["time"],
        stands_for=stands_for,
    )


def _apart(keys: KeyAxes, kept: Axes, call: Axes) -> tuple[bool, float, bool]:
    """Equal key axes first, then near ones; of equally near ones that with all axes equal."""
    return keys.sizes(kept) != keys.sizes(call), keys.distance(kept, call), _spelled(kept) != _spelled(call)


def _spelled(axes: Axes) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(axes.items()))


def _share(part: float, total: float) -> float | None:
    return part / total if total else None
