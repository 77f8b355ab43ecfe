"""HOT. A call site resolved once: key of the variable axis -> entry -> solution or None. Adapters call ``attempt``."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from fib_plugin.dispatch.axes import reader

#: Makes a definition's inputs from what the engine passes; None where the engine passes them as they are.
Make = Callable[..., tuple[Any, ...]]


class Original:
    """An engine's own op as probation runs it beside a solution.

    Args:
        call: takes what ``attempt`` takes as inputs, or what ``attempt_made`` hands to ``make``; returns the
            definition's outputs (the last ones may be left out), in memory of their own.
        prepare: copies what ``call`` overwrites; takes and returns the arguments. None: the arguments are left alone
            (but for inputs that the definition's evaluation config names as mutated). Not timed.
        finish: what an adapter does with a solution's result that it does not do with the engine's, on (result,
            arguments of ``call``); counts as the solution's time.
        places: inputs in whose place the engine's op leaves the outputs, in their order: there a solution that is given
            its outputs may write, too, once a trial saw it do so rightly. Empty: the op returns its outputs.
    """

    __slots__ = ("call", "finish", "places", "prepare")

    def __init__(
        self,
        call: Callable[..., Any],
        prepare: Make | None = None,
        finish: Callable[[Any, tuple[Any, ...]], Any] | None = None,
        places: tuple[int, ...] = (),
    ) -> None:
        self.call = call
        self.prepare = prepare
        self.finish = finish
        self.places = places


class Entry:
    """What is known of one (site, key): how often it ran and what runs it."""

    __slots__ = ("axes", "calls", "heir", "reason", "run", "solution", "spelled", "trial")

    def __init__(
        self,
        axes: dict[str, int],
        run: Callable[..., Any] | None,
        solution: str | None,
        reason: str,
        trial: Callable[[Make | None, tuple[Any, ...]], None] | None = None,
    ) -> None:
        self.axes = axes
        #: The axes as they stand in files, once somebody wrote them.
        self.spelled = ""
        self.calls = 0
        #: What answers in its place since its solution broke.
        self.heir: Entry | None = None
        self.run = run
        self.solution = solution
        self.reason = reason
        #: Looks at a call that the engine's op is going to answer: a solution on probation, or one being built.
        self.trial = trial


class Site:
    """One definition as one adapter meets it.

    ``attempt`` returns the solution's result, or None when the caller must run the engine's own op.

    Args:
        original: the engine's op for probation; None: solutions run without.
    """

    __slots__ = (
        "adapter",
        "axes",
        "broke",
        "definition",
        "entries",
        "hidden",
        "learn",
        "observe_only",
        "original",
        "recorded",
        "retired",
        "unseen",
    )

    def __init__(
        self,
        adapter: str,
        definition: Any,
        learn: Callable[[Site, Hashable, tuple[Any, ...]], Entry],
        broke: Callable[[Site, Entry, Exception], None],
        observe_only: bool = False,
        original: Original | None = None,
    ) -> None:
        self.adapter = adapter
        #: Reads the variable axes off the definition's inputs.
        self.axes = reader(definition)
        self.definition = definition
        self.entries: dict[Hashable, Entry] = {}
        self.retired: list[Entry] = []
        #: The entries, while a CUDA graph is captured: then every call is to go through ``learn``.
        self.hidden: dict[Hashable, Entry] | None = None
        #: Sizes that only graphs have met.
        self.unseen: dict[Hashable, Entry] = {}
        #: Keys whose first call was written down.
        self.recorded: set[Hashable] = set()
        self.learn = learn
        self.broke = broke
        self.observe_only = observe_only
        self.original = original

    def all_entries(self) -> list[Entry]:
        """Every entry that ever answered here, for counting."""
        # An entry that is being replaced may be in both for a moment.
        hidden = self.hidden
        if hidden is None and not self.unseen and not self.retired:
            return list(self.entries.values())
        own = [*self.entries.values(), *(hidden.values() if hidden is not None else ())]
        return list(dict.fromkeys([*own, *self.unseen.values(), *self.retired]))

    def hide(self) -> None:
        """Sends every call to ``learn`` until ``show``. The caller holds the runtime's lock, as for ``show``."""
        if self.hidden is None:
            self.hidden, self.entries = self.entries, {}

    def show(self) -> None:
        """Undoes ``hide``; what was learnt meanwhile is kept."""
        entries = self.hidden
        if entries is not None:
            entries.update(self.entries)
            self.entries, self.hidden = entries, None

    def replace(self, key: Hashable, old: Entry, new: Entry) -> None:
        """``new`` answers from now on; ``old`` keeps its counts. The caller holds the runtime's lock."""
        old.heir = new
        self.retired.append(old)
        (self.entries if self.hidden is None else self.hidden)[key] = new

    def attempt(self, key: Hashable, inputs: tuple[Any, ...]) -> Any:
        """Runs the solution that was chosen for ``key`` on the definition's inputs, in their order."""
        try:
            entry = self.entries[key]
        except KeyError:
            entry = self.learn(self, key, inputs)
        entry.calls += 1
        run = entry.run
        if run is None:
            if entry.trial is not None:
                entry.trial(None, inputs)
            return None
        try:
            return run(*inputs)
        except Exception as error:
            self.broke(self, entry, error)
            return None

    def attempt_shown(self, key: Hashable, show: Make, make: Make, *args: Any) -> Any:
        """Like ``attempt_made``, for inputs that not even a first look may make: it gets ``show(*args)``.

        Args:
            show: makes stand-ins with the inputs' shapes and whatever a record is to hold.
        """
        entry = self.entries.get(key)
        if entry is None:
            entry = self.learn(self, key, show(*args))
        entry.calls += 1
        run = entry.run
        if run is None:
            if entry.trial is not None:
                entry.trial(make, args)
            return None
        inputs = make(*args)
        try:
            return run(*inputs)
        except Exception as error:
            self.broke(self, entry, error)
            return None

    def attempt_made(self, key: Hashable, make: Make, *args: Any) -> Any:
        """Like ``attempt``, for inputs that cost something to make: ``make(*args)`` runs only when they are needed."""
        entry = self.entries.get(key)
        made = None
        if entry is None:
            made = make(*args)
            entry = self.learn(self, key, made)
        entry.calls += 1
        run = entry.run
        if run is None:
            if entry.trial is not None:
                entry.trial(make, args)
            return None
        inputs = make(*args) if made is None else made
        try:
            return run(*inputs)
        except Exception as error:
            self.broke(self, entry, error)
            return None
