"""Reservoirs of two datasets on their way into one: which workloads still count, and what gives way to them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from fib_plugin.dataset import layout
from fib_plugin.dataset.fold import prune
from fib_plugin.dataset.merge_report import MergeReport
from fib_plugin.dataset.reservoirs import Held, Reservoirs, pooled
from fib_plugin.schema import Definition


class Samples:
    """Reservoirs of a source and of the merged dataset, pooled. `write` comes before the lines, `prune` after them."""

    def __init__(self, source: Path, into: Path, report: MergeReport) -> None:
        self._into = into
        self._report = report
        self._theirs = Reservoirs(source, report.problems)
        self._ours = Reservoirs(into)
        self._pooled: dict[str, tuple[Definition, Held, frozenset[str]]] = {}
        self._names: dict[str, dict[str, str]] = defaultdict(dict)

    def let_go(self, definition: Definition, uuid: str) -> bool:
        """Whether a workload of the source was in a reservoir and is no more."""
        if definition.name not in self._pooled:
            theirs, ours = self._theirs.of(definition.name), self._ours.of(definition.name)
            held = None if theirs is None else pooled([one for one in (ours, theirs) if one is not None])
            if held is None:
                return False
            self._pooled[definition.name] = (definition, held, frozenset(held.left))
        return uuid in self._pooled[definition.name][2]

    def rename(self, definition: Definition, uuid: str, name: str) -> None:
        """A workload of the source stands in the merged dataset under another uuid."""
        self._names[definition.name][uuid] = name

    def write(self) -> None:
        """Say who is in, so that a kill from here on leaves no line of which nobody knows that it was let go."""
        for name, (definition, held, _) in self._pooled.items():
            self._ours.write(definition.op_type, name, held.renamed(self._names[name]))

    def prune(self) -> None:
        """Drop from the merged dataset what the source's calls took the place of."""
        prune(self._into, [layout.workloads_file(self._into, one) for one, _, _ in self._pooled.values()], self._report)
