"""Chooser: from a site and a size to what answers there. Cold: asked once a size, by the runtime."""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from fib_plugin import ops
from fib_plugin.build import BuildError, Runnable, build, ready
from fib_plugin.dispatch.catalog import Catalog, CatalogError, Winner
from fib_plugin.dispatch.guard import Guard
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Entry, Make, Site
from fib_plugin.dispatch.trust import Trust
from fib_plugin.schema import Definition, SchemaError, Solution

logger = logging.getLogger("fib_plugin")


class Chooser:
    """Asks, in this order: is it proven, is it trusted, is it not in quarantine, does it build, does it pass probation.

    Args:
        cache: where build products are.
        strict: a failing build raises.
    """

    def __init__(self, root: Path, catalog: Catalog, trust: Trust, guard: Guard, cache: Path, strict: bool) -> None:
        self._root = root
        self._catalog = catalog
        self._trust = trust
        self._guard = guard
        self._cache = cache
        self._strict = strict
        self._lock = threading.RLock()
        self._built: dict[str, Runnable | Reason] = {}
        self._told: set[str] = set()

    def forked(self) -> None:
        """In a forked child the threads that were building are gone."""
        self._lock = threading.RLock()
        self._built = {name: built for name, built in self._built.items() if built is not Reason.BUILDING}

    def entry(self, site: Site, key: Hashable, axes: dict[str, int]) -> Entry:
        """What answers calls of this size from now on.

        Raises:
            BuildError: the solution does not build, when strict.
        """
        definition = site.definition
        family = ops.family_of(definition)
        if site.observe_only:
            return _original(axes, Reason.NO_SOLUTION)
        if family is None or self._catalog.definition(definition.name) is None:
            return _original(axes, Reason.NO_DEFINITION)
        point = family.point(axes)
        if isinstance(key, tuple) and key[-1] == ops.ANY_LENGTH:
            point = (point[0], ops.ANY_LENGTH)
        choice = self._catalog.choose(definition.name, point)
        if choice.winner is None:
            return _original(axes, choice.reason or Reason.NO_SOLUTION)
        winner = choice.winner
        if self._trust.beyond(winner.hash, axes):
            return _original(axes, Reason.BEYOND_TRUST)
        built = self._runnable(winner, definition)
        if built is Reason.BUILDING:
            entry = _original(axes, Reason.BUILDING)
            entry.trial = self._waiting(site, key, winner.name)
            return entry
        if isinstance(built, Reason):
            return _original(axes, built)
        try:
            config = ops.evaluation_config(definition, self._root)
        except SchemaError as error:
            # To judge by other values than the operator asked for would be worse than not to substitute.
            self._tell(winner.name, f"is not used: {error}")
            return _original(axes, Reason.BAD_EVALUATION_CONFIG)
        return self._guard.admit(site, key, axes, built, config)

    def _runnable(self, winner: Winner, definition: Definition) -> Runnable | Reason:
        with self._lock:
            known = self._built.get(winner.name)
            if isinstance(known, Reason):
                return known
            if self._guard.refusal(winner.name, winner.hash):
                return Reason.QUARANTINED
            if known is None:
                known = self._built[winner.name] = self._prepare(winner, definition)
            return known

    def _prepare(self, winner: Winner, definition: Definition) -> Runnable | Reason:
        refusal = self._trust.refusal(winner.name, winner.hash)
        if refusal is not None:
            if refusal is Reason.CHANGED_SINCE_TRUSTED:
                self._tell(winner.name, "differs from what was trusted and is not loaded; see `fib trust verify`")
            else:
                self._tell(winner.name, "is proven faster but not trusted: `fib trust add` lets it run")
            return refusal
        try:
            solution = self._catalog.solution(winner)
        except CatalogError as error:
            self._tell(winner.name, f"is not loaded: {error}")
            return Reason.CHANGED_SINCE_MEASURED
        if self._strict or ready(solution, self._cache):
            return self._build(solution, definition)
        # A compiler takes a minute; the engine does not wait for it.
        thread = threading.Thread(target=self._build_aside, args=(solution, definition), name="fib-build", daemon=True)
        thread.start()
        return Reason.BUILDING

    def _build_aside(self, solution: Solution, definition: Definition) -> None:
        built = self._build(solution, definition)
        with self._lock:
            self._built[solution.name] = built

    def _build(self, solution: Solution, definition: Definition) -> Runnable | Reason:
        try:
            return build(solution, definition, self._cache)
        except Exception as error:
            if self._strict:
                raise
            if not isinstance(error, BuildError):
                logger.debug("build of %s", solution.name, exc_info=True)
            # The build cache keeps compile errors; a record on disk would outlive a mended toolchain.
            self._guard.put_out(solution.name, definition.name, Reason.BUILD_FAILED, str(error), {}, keep=False)
            return Reason.BUILD_FAILED

    def _waiting(self, site: Site, key: Hashable, name: str) -> Any:
        """Looks, on calls that the engine's op answers, whether the build is done; the next call then learns anew."""

        def look(make: Make | None, args: tuple[Any, ...]) -> None:
            if self._built.get(name) is Reason.BUILDING:
                return
            with self._lock:
                entry = site.entries.get(key)
                if entry is not None and entry.trial is look:
                    site.retired.append(entry)
                    del site.entries[key]

        return look

    def _tell(self, name: str, what: str) -> None:
        if name not in self._told:
            self._told.add(name)
            logger.warning("solution %s %s", name, what)


def _original(axes: dict[str, int], reason: Reason) -> Entry:
    return Entry(axes, None, None, reason.value)
