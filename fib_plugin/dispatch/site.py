"""HOT. A call site resolved once: key of the variable axis -> entry -> solution or None. Adapters call ``attempt``."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any


class Entry:
    """What is known of one (site, key): how often it ran and what runs it."""

    __slots__ = ("axes", "calls", "heir", "reason", "run", "solution")

    def __init__(self, axes: dict[str, int], run: Callable[..., Any] | None, solution: str | None, reason: str) -> None:
        self.axes = axes
        self.calls = 0
        #: What answers in its place since its solution broke.
        self.heir: Entry | None = None
        self.run = run
        self.solution = solution
        self.reason = reason


class Site:
    """One definition as one adapter meets it.

    ``attempt`` returns the solution's result, or None when the caller must run the engine's own op.
    """

    __slots__ = ("adapter", "broke", "definition", "entries", "learn", "observe_only", "retired")

    def __init__(
        self,
        adapter: str,
        definition: Any,
        learn: Callable[[Site, Hashable, tuple[Any, ...]], Entry],
        broke: Callable[[Site, Entry, Exception], None],
        observe_only: bool = False,
    ) -> None:
        self.adapter = adapter
        self.definition = definition
        self.entries: dict[Hashable, Entry] = {}
        self.retired: list[Entry] = []
        self.learn = learn
        self.broke = broke
        self.observe_only = observe_only

    def all_entries(self) -> list[Entry]:
        """Every entry that ever answered here, for counting."""
        return [*self.entries.values(), *self.retired]

    def attempt(self, key: Hashable, inputs: tuple[Any, ...]) -> Any:
        """Runs the solution that was chosen for ``key`` on the definition's inputs, in their order."""
        try:
            entry = self.entries[key]
        except KeyError:
            entry = self.learn(self, key, inputs)
        entry.calls += 1
        run = entry.run
        if run is None:
            return None
        try:
            return run(*inputs)
        except Exception as error:
            self.broke(self, entry, error)
            return None

    def attempt_made(self, key: Hashable, make: Callable[..., tuple[Any, ...]], *args: Any) -> Any:
        """Like ``attempt``, for inputs that cost something to make: ``make(*args)`` runs only when they are needed."""
        entry = self.entries.get(key)
        if entry is not None and entry.run is None:
            entry.calls += 1
            return None
        return self.attempt(key, make(*args))
