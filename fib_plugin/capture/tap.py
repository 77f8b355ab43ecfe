"""HOT. Tap: the site of a definition whose policy looks at every call, not only at the first of a key.

Definitions under the default policy have a plain Site, so that their calls cost nothing more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from fib_plugin.dispatch.site import Entry, Make, Original, Site
from fib_plugin.dispatch.stopwatch import capturing

if TYPE_CHECKING:
    from fib_plugin.capture.recorder import Recorder
    from fib_plugin.schema import Definition

log = logging.getLogger("fib_plugin")

#: Failures in a row after which a site is not looked at again.
_GIVE_UP = 3


class _Everything(set[Hashable]):
    """Keys that the runtime need not record: the tap does."""

    def __contains__(self, key: object) -> bool:
        return True

    def add(self, key: Hashable) -> None:
        pass


class Tap(Site):
    """Does what Site does, and shows the recorder the calls that its plan asks for. Counts nothing, never raises.

    A call that is let pass costs a countdown, or where every call is looked at, a look into the set of keys that are
    done. Calls are shown before they run, since an op may overwrite its inputs.
    """

    __slots__ = ("_failures", "_recorder", "done", "plan")

    def __init__(
        self,
        adapter: str,
        definition: Definition,
        learn: Callable[[Site, Hashable, tuple[Any, ...]], Entry],
        broke: Callable[[Site, Entry, Exception], None],
        observe_only: bool = False,
        original: Original | None = None,
        *,
        recorder: Recorder,
    ) -> None:
        super().__init__(adapter, definition, learn, broke, observe_only, original)
        self.recorded = _Everything()
        self.plan = recorder.policy.plan(definition)
        #: Keys of which enough was taken; with a sample rate it stays empty, so that every call counts alike.
        self.done: set[Hashable] = set()
        self._recorder = recorder
        self._failures = 0

    def attempt(self, key: Hashable, inputs: tuple[Any, ...]) -> Any:
        """See Site."""
        plan = self.plan
        # Threads may count it down at once and miss zero.
        if plan.skip > 0:
            plan.skip -= 1
        elif plan.on and key not in self.done:
            self._look(key, None, inputs)
        return Site.attempt(self, key, inputs)

    def attempt_made(self, key: Hashable, make: Make, *args: Any) -> Any:
        """See Site."""
        plan = self.plan
        if plan.skip > 0:
            plan.skip -= 1
        elif plan.on and key not in self.done:
            self._look(key, make, args)
        return Site.attempt_made(self, key, make, *args)

    def attempt_shown(self, key: Hashable, show: Make, make: Make, *args: Any) -> Any:
        """See Site."""
        plan = self.plan
        if plan.skip > 0:
            plan.skip -= 1
        elif plan.on and key not in self.done:
            self._look(key, show, args)
        return Site.attempt_shown(self, key, show, make, *args)

    def _look(self, key: Hashable, make: Make | None, args: tuple[Any, ...]) -> None:
        try:
            # While a graph is captured nothing runs, and nothing may be added to the graph.
            if self.hidden is not None or capturing(args):
                return
            plan = self.plan
            if not plan.due():
                return
            inputs = args if make is None else make(*args)
            axes = self.axes(*inputs)
            settled = self._recorder.record(self.adapter, self.definition, axes, inputs, key)
            if settled and plan.terms.sample_rate >= 1 and plan.full(plan.point(axes, (self.adapter, key))):
                self.done.add(key)
            self._failures = 0
        except Exception:
            self._failures += 1
            if self._failures == 1:
                log.warning("a call of %s could not be recorded", self.definition.name, exc_info=True)
            elif self._failures >= _GIVE_UP:
                self.plan.on = False


def make_site(
    recorder: Recorder | None,
    adapter: str,
    definition: Definition,
    learn: Callable[[Site, Hashable, tuple[Any, ...]], Entry],
    broke: Callable[[Site, Entry, Exception], None],
    observe_only: bool = False,
    original: Original | None = None,
) -> Site:
    """The kind of site that the definition's policy needs; without a recorder a plain one."""
    if recorder is not None and recorder.policy.plan(definition).tapped:
        return Tap(adapter, definition, learn, broke, observe_only, original, recorder=recorder)
    return Site(adapter, definition, learn, broke, observe_only, original)
