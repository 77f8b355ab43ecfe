"""Recorder: live calls on their way to the writer. The runtime and taps hand it calls, the policy says which it takes.

Its ``beat``, on the writer's thread, is where `fib capture` starts and stops it.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from fib_plugin.capture.control import Control
from fib_plugin.capture.derived import Derived, Recipe
from fib_plugin.capture.loss import Loss
from fib_plugin.capture.policy import Policy
from fib_plugin.capture.policy_members import Members
from fib_plugin.capture.policy_plan import Answer, Plan
from fib_plugin.capture.snapshot import Snapshots
from fib_plugin.capture.tap_missed import Missed
from fib_plugin.capture.writer import Record, Writer
from fib_plugin.schema import Definition, Solution

log = logging.getLogger("fib_plugin")

#: Seconds without a try after the writer refused a call: a snapshot costs more than its refusal.
_BACK_OFF = 0.05
_TAKE = Answer.TAKE
#: Losses that say nothing of other calls.
_OF_THIS_CALL = (Loss.GRAPH_CAPTURE, Loss.SNAPSHOT_TOO_LARGE)


class Recorder:
    """Copies what a workload must hold and hands it to the writer; never waits for the device or the disk.

    Args:
        root: the dataset, for the control file and the members of reservoirs; None: neither is looked at.
    """

    def __init__(
        self,
        writer: Writer,
        displaced: Callable[[str, Definition], Solution | None],
        policy: Policy | None = None,
        root: Path | None = None,
    ) -> None:
        self.writer = writer
        self.policy = policy or Policy()
        self.missed = Missed(self.record)
        self._displaced = displaced
        self._snapshots = Snapshots()
        self._control = None if root is None else Control(root)
        self._members = None if root is None else Members(root)
        self._again_at = 0.0
        self._told: set[str] = set()
        self._guarded(self._follow)

    def record(
        self,
        adapter: str,
        definition: Definition,
        axes: dict[str, int],
        inputs: tuple[Any, ...],
        key: Hashable = None,
        chosen: bool = False,
    ) -> bool:
        """Takes one call if the policy wants it.

        Args:
            inputs: None for a tensor whose data is not at hand; it is kept by shape.
            key: the site's key; None: the axes stand for it.
            chosen: the caller has sampled by itself, only switches and quotas may refuse the call.

        Returns:
            False when a later call of the same key is to be tried: capture is stopped, or the writer is full.
        """
        plan = self.policy.plan(definition)
        point = plan.point(axes, None if key is None else (adapter, key))
        # Held until the writer has the call, so that no other thread takes its place meanwhile.
        with plan.lock:
            answer = plan.ask(point, chosen)
            if answer is not _TAKE:
                return answer is Answer.LEAVE
            if self._again_at and time.monotonic() < self._again_at:
                plan.skipped["backing_off"] += 1
                return False
            serial = plan.next()
            record = self._copy(plan, adapter, axes, inputs, serial)
            if isinstance(record, Loss):
                self.writer.refuse(record)
            elif self.writer.submit(record):
                plan.took(point, serial)
                return True
            if record not in _OF_THIS_CALL:
                self._again_at = time.monotonic() + _BACK_OFF
            return False

    def _copy(
        self, plan: Plan, adapter: str, axes: dict[str, int], inputs: tuple[Any, ...], serial: int
    ) -> Record | Loss:
        values: dict[Any, Any] = plan.blank
        ready: Callable[[], bool] | None = None
        if len(inputs) != len(values):
            raise ValueError(f"{plan.definition.name} has {len(values)} inputs, the call {len(inputs)}")
        if plan.looked_at:
            values = values.copy()
            tensors: dict[Hashable, Any] = {}
            derived: dict[str, Derived] | None = None
            for place, name, number in plan.looked_at:
                value = inputs[place]
                if number and (isinstance(value, (bool, int, float)) or not getattr(value, "is_cuda", False)):
                    values[name] = value if isinstance(value, (bool, int, float)) else float(value)
                elif type(value) is Derived:
                    derived = derived or {}
                    derived[name] = value
                    _add_sources(tensors, value.recipe)
                elif value is not None:  # a number that is on the device, too: to read it would wait for the device
                    tensors[name] = value
            shot = self._snapshots.take(tensors)
            if isinstance(shot, Loss):
                return shot
            ready, copies = shot.ready, shot.inputs
            if derived is not None:
                _make_of_copies(derived, copies)
            values.update(copies)
        displaced = self._displaced(adapter, plan.definition)
        return Record(plan.definition, displaced, axes, values, ready, functools.partial(plan.settled, serial))

    def beat(self) -> None:
        """Once a second, on the writer's thread. Never raises: counts and status are due whatever fails here."""
        for part in (self._snapshots.prepare, self._follow, self.missed.arm, self._write_members):
            self._guarded(part)

    def status(self) -> dict[str, Any]:
        """For the status file: whether it records, by what order, and the plan of each definition."""
        state = {"recording": self.policy.running}
        if self._control is not None:
            state = {**state, **self._control.status()}
        return {**state, "waiting": len(self.missed), "policy": self.policy.status()}

    def forked(self) -> None:
        """In a forked child: nobody holds a lock, and what the parent wrote is the parent's."""
        self._again_at = 0.0
        self._snapshots = Snapshots()
        self.policy.forked()
        self.missed.forked()
        if self._control is not None:
            self._control.forked()
        if self._members is not None:
            self._members.forked()

    def _follow(self) -> None:
        if self._control is None:
            return
        running = self._control.poll(self.policy.taken)
        # The order counts to the workload, not to the second.
        self.policy.allowance.left = self._control.left(self.policy.taken)
        if running != self.policy.running:
            self.policy.run(running)
            self.missed.running = running

    def _write_members(self) -> None:
        if self._members is not None:
            self._members.write(self.policy.samples())

    def _guarded(self, part: Callable[[], None]) -> None:
        try:
            part()
        except Exception as error:
            if part.__qualname__ not in self._told:
                self._told.add(part.__qualname__)
                log.warning("capture: %s failed and is tried again each second: %r", part.__qualname__, error)


def _add_sources(tensors: dict[Hashable, Any], recipe: Recipe) -> None:
    """What the recipe is made of, by names that no input has."""
    number = id(recipe)
    for key, source in recipe.sources.items():
        tensors[number, key] = source


def _make_of_copies(derived: dict[str, Derived], copies: dict[Hashable, Any]) -> None:
    """Puts the derived inputs, to be made of the copies of their sources, in the place of these copies."""
    recipes: dict[int, Recipe] = {}
    for name, value in derived.items():
        number = id(value.recipe)
        recipe = recipes.get(number)
        if recipe is None:
            sources = {key: copies.pop((number, key)) for key in value.recipe.sources}
            recipe = recipes[number] = Recipe(value.recipe.make, **sources)
        copies[name] = Derived(recipe, value.index, value.shape)
