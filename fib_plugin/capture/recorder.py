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
from fib_plugin.capture.policy import Answer, Plan, Policy
from fib_plugin.capture.policy_members import Members
from fib_plugin.capture.snapshot import Snapshots
from fib_plugin.capture.tap_missed import Missed
from fib_plugin.capture.writer import RANDOM, Record, Writer
from fib_plugin.schema import Definition, Solution

log = logging.getLogger("fib_plugin")

#: Seconds without a try after the writer refused a call: a snapshot costs more than its refusal.
_BACK_OFF = 0.05
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
            if answer is not Answer.TAKE:
                return answer is Answer.LEAVE
            if time.monotonic() < self._again_at:
                plan.skipped["backing_off"] += 1
                return False
            serial = plan.next()
            record = self._copy(plan, adapter, axes, inputs)
            if isinstance(record, Loss):
                self.writer.refuse(record)
            else:
                record.settled = functools.partial(plan.settled, serial)
                if self.writer.submit(record):
                    plan.took(point, serial)
                    return True
            if record not in _OF_THIS_CALL:
                self._again_at = time.monotonic() + _BACK_OFF
            return False

    def _copy(self, plan: Plan, adapter: str, axes: dict[str, int], inputs: tuple[Any, ...]) -> Record | Loss:
        definition = plan.definition
        values: dict[str, Any] = {}
        tensors: dict[str, Any] = {}
        derived: dict[str, Derived] = {}
        for (name, spec), value in zip(definition.inputs.items(), inputs, strict=True):
            values[name] = RANDOM
            if spec.shape is None:
                if getattr(value, "is_cuda", False):
                    tensors[name] = value  # to read a number that is on the device would wait for the device
                else:
                    values[name] = value if isinstance(value, (bool, int)) else float(value)
            elif name in plan.by_value and value is not None:
                if isinstance(value, Derived):
                    derived[name] = value
                    tensors.update((_source(value.recipe, key), each) for key, each in value.recipe.sources.items())
                else:
                    tensors[name] = value
        shot = self._snapshots.take(tensors)
        if isinstance(shot, Loss):
            return shot
        values.update(_with_copies(derived, shot.inputs) if derived else shot.inputs)
        displaced = self._displaced(adapter, definition)
        return Record(definition=definition, displaced=displaced, axes=axes, inputs=values, ready=shot.ready)

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


def _source(recipe: Recipe, key: str) -> str:
    """A name that no input has, for a copy of what a recipe is made of."""
    return f"{id(recipe)}:{key}"


def _with_copies(derived: dict[str, Derived], copies: dict[str, Any]) -> dict[str, Any]:
    """The record's inputs, the derived ones to be made of copies of their sources."""
    own = dict(copies)
    recipes: dict[int, Recipe] = {}
    for name, value in derived.items():
        recipe = value.recipe
        if id(recipe) not in recipes:
            sources = {key: own.pop(_source(recipe, key)) for key in recipe.sources}
            recipes[id(recipe)] = Recipe(recipe.make, **sources)
        own[name] = Derived(recipes[id(recipe)], value.index, value.shape)
    return own
