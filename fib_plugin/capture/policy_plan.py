"""Plan: what the policy says of one definition's calls, and what was taken of them. Made by Policy."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import Counter, deque
from collections.abc import Hashable, Mapping
from enum import Enum
from typing import Any

from fib_plugin import ops
from fib_plugin.capture.config import Terms
from fib_plugin.capture.policy_sample import Gaps, Reservoir
from fib_plugin.capture.record import RANDOM
from fib_plugin.dataset import layout
from fib_plugin.dataset.reservoirs import Held
from fib_plugin.schema import Definition

log = logging.getLogger("fib_plugin")

#: Kinds of policy by which k of each point are kept.
_BY_POINT = ("first_k_by_key", "attention")


class Answer(Enum):
    """What is to be done with a call that was looked at."""

    TAKE = "take"
    LEAVE = "leave"
    """Calls like it are never taken again."""
    LATER = "later"
    """Not now; a later call like it may be taken."""


class Allowance:
    """How many calls may still be taken, of all definitions together; None: any number."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left: int | None = None


class Plan:
    """What the rules say of one definition's calls, and what was taken of them.

    A Tap counts ``skip`` down and asks when it is used up; other sites ask at the first call of a key. Whoever asks
    holds ``lock`` until the record is with the writer, so that ``took`` tells what was true.
    """

    __slots__ = (
        "_allowance",
        "_answers",
        "_by_axes",
        "_each",
        "_family",
        "_gaps",
        "_left",
        "_limit",
        "_pending",
        "_plain",
        "_reservoir",
        "_serial",
        "_slots",
        "_stopped",
        "_taken",
        "_uuids",
        "_warned",
        "_writable",
        "blank",
        "by_value",
        "definition",
        "lock",
        "looked_at",
        "on",
        "skip",
        "skipped",
        "taken",
        "tapped",
        "terms",
        "written",
    )

    def __init__(
        self,
        definition: Definition,
        terms: Terms,
        limit: int | None = None,
        running: bool = True,
        allowance: Allowance | None = None,
    ) -> None:
        self.definition = definition
        self._allowance = allowance or Allowance()
        self.terms = terms
        self.lock = threading.Lock()
        self._limit = limit
        self._stopped = not running
        self._family = ops.family_of(definition)
        self._answers: deque[tuple[int, str, bool]] = deque()
        self._taken: dict[Hashable, int] = {}
        self._pending: set[int] = set()
        self._serial = 0
        self._warned = False
        #: Key and call of each slot of the reservoir, the workload of a call, and those that were in it before.
        self._slots: dict[int, tuple[float, int]] = {}
        self._uuids: dict[int, str] = {}
        self._left: set[str] = set()
        self._draw()
        #: Calls that were taken, and workloads that came of them: calls of equal content become one.
        self.taken = 0
        self.written = 0
        #: Calls that were looked at and not taken, by reason.
        self.skipped: Counter[str] = Counter()
        self.by_value, beyond = self._dumped()
        #: What a record says of inputs whose values do not matter, and the places of the others: (place, name, number).
        self.blank: dict[str, Any] = dict.fromkeys(definition.inputs, RANDOM)
        self.looked_at = tuple(
            (place, name, spec.shape is None)
            for place, (name, spec) in enumerate(definition.inputs.items())
            if spec.shape is None or name in self.by_value
        )
        #: Whether its workloads tell sizes only.
        self._plain = not self.looked_at
        self._each = 1 if self._plain else terms.k
        self._by_axes = terms.keep == "attention" and self._family is not None
        # Without its structural inputs a workload of such a family could not be run again: it is only counted.
        blind = terms.dump == "none" and self._family is not None and bool(self._family.structural)
        self._writable = terms.keep != "off" and terms.sample_rate > 0 and not blind
        #: Whether every call is to be looked at, not only the first of a key.
        self.tapped = self._writable and self._needs_tap(beyond)
        self.on = running and self._writable

    # ---- asked by the recorder and by Tap -----------------------------------------------------------------------

    def due(self) -> bool:
        """Draws how many calls pass before the next look; whether the present call may be taken."""
        with self.lock:
            if self._reservoir is None or self._gaps.rate < 1:
                self.skip = self._gaps.draw()
            if self._reservoir is not None and self._reservoir.wait > 0 and self._gaps.rate < 1:
                self._reservoir.wait -= 1
                return False
            return True

    def point(self, axes: Mapping[str, int], key: Hashable = None) -> Hashable:
        """What calls have in common of which k are kept."""
        if self._by_axes:
            assert self._family is not None
            return self._family.point(axes)
        if key is not None and self.terms.keep == "first_k_by_key":
            return key
        return tuple(axes.values())

    def ask(self, point: Hashable, chosen: bool = False) -> Answer:
        """What to do with a call at ``point``. The caller holds ``lock``.

        Args:
            chosen: the caller has sampled by itself; only switches and quotas may refuse it.
        """
        if not self._writable:
            reason = "off" if self.terms.keep == "off" or not self.terms.sample_rate else "dump_none"
            self.skipped[reason] += 1
            return Answer.LEAVE
        if self._stopped or self._allowance.left == 0:
            self.skipped["stopped"] += 1
            return Answer.LATER
        if not chosen and self.full(point):
            return Answer.LEAVE
        if self._limit is not None and self.written + len(self._pending) >= self._limit:
            self._hear()
            if self.written >= self._limit:
                self.skipped["workload_quota"] += 1
                self.on = False
                self._warn()
                return Answer.LEAVE
            if self.written + len(self._pending) >= self._limit:
                return Answer.LATER
        return Answer.TAKE

    def full(self, point: Hashable) -> bool:
        """Whether enough calls of ``point`` were taken."""
        if self.terms.keep in _BY_POINT:
            return self._taken.get(point, 0) >= self._each
        # Without a tensor and a number, calls of one size are one workload however many are kept.
        return self._plain and self.terms.keep == "all" and point in self._taken

    def next(self) -> int:
        """Names the call that is about to be taken, for ``settled``. The caller holds ``lock``."""
        self._serial += 1
        return self._serial

    def took(self, point: Hashable, serial: int) -> None:
        """The writer has the call. The caller holds ``lock``."""
        self.taken += 1
        if self._allowance.left:
            self._allowance.left -= 1
        if self._limit is not None:
            self._pending.add(serial)
        if self._reservoir is None:
            if self._plain or self.terms.keep != "all":
                self._taken[point] = self._taken.get(point, 0) + 1
            return
        slot, key = self._reservoir.enter()
        _, before = self._slots.get(slot, (0.0, 0))
        uuid = self._uuids.pop(before, None)
        if uuid is not None:
            self._left.add(uuid)
        self._slots[slot] = (key, serial)
        if self._gaps.rate >= 1:
            self.skip = self._reservoir.wait

    def settled(self, serial: int, uuid: str, new: bool) -> None:
        """From the writer's thread: the workload that a call became, and whether it was not there before.

        An empty uuid says that the record was dropped.
        """
        self._answers.append((serial, uuid, new))

    # ---- asked once a second ------------------------------------------------------------------------------------

    def run(self, running: bool) -> None:
        """Takes calls, or takes none until told otherwise."""
        with self.lock:
            self._stopped = not running
            self._hear()
            self.on = running and self._writable and not (self._limit is not None and self.written >= self._limit)

    def sample(self) -> Held | None:
        """Of a reservoir, the workloads that it holds now and those that it let go. None where nothing is let go."""
        if self._reservoir is None:
            return None
        with self.lock:
            self._hear()
            members = [(key, self._uuids[call]) for key, call in self._slots.values() if call in self._uuids]
            # A call of equal content may have come back.
            left = self._left.difference(uuid for _, uuid in members)
            return Held(k=self.terms.k, members=sorted(members), left=sorted(left))

    def status(self) -> dict[str, Any]:
        """For the status file."""
        with self.lock:
            self._hear()
            terms = self.terms
            return {
                "dump": list(terms.dump) if isinstance(terms.dump, tuple) else terms.dump,
                "keep": terms.keep,
                "k": terms.k,
                "sample_rate": terms.sample_rate,
                "taken": self.taken,
                "written": self.written,
                "skipped": dict(self.skipped),
            }

    def forked(self) -> None:
        """In a forked child nobody holds the lock; what the parent's writer has is the parent's."""
        self.lock = threading.Lock()
        self._pending.clear()
        self._answers.clear()
        self._uuids.clear()
        self._slots.clear()
        self._left.clear()
        self.taken = self.written = 0
        self.skipped.clear()
        if self._reservoir is not None:
            self._draw()
        self.on = not self._stopped and self._writable

    # ---- its own ------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        """Random numbers of this process's own: processes that drew alike would take the same calls."""
        source = random.Random(f"{self.terms.seed} {self.definition.name} {layout.this_host()} {os.getpid()}")
        self._gaps = Gaps(self.terms.sample_rate, source)
        self._reservoir = Reservoir(self.terms.k, source) if self.terms.keep == "reservoir" else None
        #: Calls that a Tap lets pass before it asks.
        self.skip = self._gaps.draw()

    def _dumped(self) -> tuple[frozenset[str], bool]:
        """The tensors that are kept by value, and whether any of them is not a structural one."""
        tensors = {name for name, spec in self.definition.inputs.items() if spec.shape is not None}
        structural = tensors.intersection(self._family.structural if self._family is not None else ())
        dump = self.terms.dump
        if dump == "none":
            names = set()
        elif dump == "structural":
            names = structural
        elif dump == "all":
            names = tensors
        else:
            names = tensors.intersection(dump) | structural
        return frozenset(names), bool(names - structural)

    def _needs_tap(self, beyond: bool) -> bool:
        # What is no structural input may not be at hand at the first call of a key: an adapter may show its shape only.
        if beyond or self.terms.sample_rate < 1 or self.terms.keep == "reservoir":
            return True
        return not self._plain and (self.terms.keep == "all" or self.terms.k > 1)

    def _hear(self) -> None:
        while self._answers:
            serial, uuid, new = self._answers.popleft()
            self._pending.discard(serial)
            self.written += new
            if self._reservoir is not None and uuid:
                if any(serial == call for _, call in self._slots.values()):
                    self._uuids[serial] = uuid
                else:
                    self._left.add(uuid)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "capture: %s has the %d workloads that the quota workloads_per_definition allows; its further calls "
                "are only counted. Remedy: raise it in FIB_CAPTURE_CONFIG, or keep less.",
                self.definition.name,
                self.written,
            )
