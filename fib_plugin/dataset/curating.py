"""Curates a dataset: keeps the workloads that `curation` selects, in another folder or in place. `fib dataset curate`.

Into another folder: definitions, kept workloads with their blobs, the engine's own solutions, evaluation sidecars and
call counts are written there; the dataset is only read. A file that is there already with other content is an error,
so curating twice changes nothing and nothing is ever overwritten.

In place: shards are folded first, as `merge` does; then each workload that is left out moves, with its blob, to
fib/curated_out, which is laid out like a dataset: `fib dataset merge DATASET/fib/curated_out --into DATASET` undoes it.
A kill at any point loses nothing; the next run goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from fib_plugin.dataset import call_time, layout, reading
from fib_plugin.dataset.counts import load_counts
from fib_plugin.dataset.curated_files import CURATED_OUT, CuratedCopy, move_out
from fib_plugin.dataset.curation import Calls, Candidate, KeyAxes, select, standing
from fib_plugin.dataset.curation_report import CurationReport, DefinitionCuration, Kept
from fib_plugin.dataset.fold import fold
from fib_plugin.dataset.identity import Identity
from fib_plugin.dataset.measurements import load_measurements
from fib_plugin.dataset.merge_lock import merge_lock
from fib_plugin.dataset.merge_report import MergeReport
from fib_plugin.dataset.reservoirs import Reservoirs
from fib_plugin.schema import Definition, SchemaError, Trace

KEEP = 50
"""Workloads that are kept of a definition unless told otherwise."""


def curate(
    root: Path,
    into: Path | None = None,
    keep: int = KEEP,
    only: str = "*",
    dry_run: bool = False,
    keys: Callable[[Definition], KeyAxes] = call_time.key_axes,
) -> CurationReport:
    """Curate the dataset below `root`.

    Args:
        into: folder to write to; None: in place.
        keep: workloads to keep of each definition; one that has fewer keeps all.
        only: pattern of the definitions to look at; in place the others stay as they are.
        dry_run: report, but write nothing.
        keys: key axes of a definition.
    """
    if not root.is_dir():
        raise SchemaError("no such folder", file=root, remedy="name the folder of a dataset")
    if into is not None and into.resolve() == root.resolve():
        raise SchemaError("this is the dataset itself", file=into, remedy="leave out --into to curate in place")
    report = CurationReport(root, into, dry_run)
    if dry_run or into is not None:
        plan = _Plan(root, keep, only, keys, report)
        if into is not None and not dry_run:
            CuratedCopy(root, into, report.problems).write(
                [plan.definitions[row.definition] for row in report.rows],
                {name: [held.found for held in kept] for name, kept in plan.kept.items()},
            )
        return report
    with merge_lock(root):
        merged = MergeReport(root)
        fold(root, merged)
        report.notes += merged.notes
        report.problems += merged.problems
        report.notes += [f"{file}: left to the process that is writing it" for file in merged.shards_left]
        plan = _Plan(root, keep, only, keys, report, skip=merged.shards_left)
        report.moved = move_out(root, [held.found for held in plan.left_out])
        if report.moved:
            report.left_out = root / CURATED_OUT
    return report


@dataclass(frozen=True, slots=True)
class _Held:
    """A workload with its place and identity."""

    found: reading.Found[Trace]
    candidate: Candidate
    uuid: str


class _Plan:
    """What is kept and what is left out; fills the report's rows."""

    def __init__(
        self,
        root: Path,
        keep: int,
        only: str,
        keys: Callable[[Definition], KeyAxes],
        report: CurationReport,
        skip: list[Path] | None = None,
    ) -> None:
        self.definitions: dict[str, Definition] = {}
        self.kept: dict[str, list[_Held]] = {}
        self.left_out: list[_Held] = []
        self._root = root
        self._report = report
        for found in reading.definitions(root):
            if found.record is None:
                self._problem(found.error)
            elif fnmatchcase(found.record.name, only):
                self.definitions.setdefault(found.record.name, found.record)
        held = self._workloads(only, set(skip or ()))
        counted = load_counts(root, report.problems)
        measurements = load_measurements(root, report.problems)
        times = call_time.CallTime(self.definitions, measurements, keys)
        for name in sorted(self.definitions, key=lambda name: (self.definitions[name].op_type, name)):
            if held[name] or counted.get(name):
                self._definition(self.definitions[name], held[name], counted.get(name, {}), keys, times, keep)

    def _workloads(self, only: str, skip: set[Path]) -> dict[str, list[_Held]]:
        """Definition -> its workloads, each content once."""
        identity, reservoirs = Identity(self._root), Reservoirs(self._root, self._report.problems)
        left: dict[str, frozenset[str]] = {}
        held: dict[str, dict[str, _Held]] = defaultdict(dict)
        for found in self._lines(skip):
            trace = found.record
            assert trace is not None
            if not fnmatchcase(trace.definition, only):
                continue
            if trace.definition not in self.definitions:
                error = SchemaError(f"names the unknown definition {trace.definition!r}", remedy="add the definition")
                self._problem(error.located(found.file, found.line))
                continue
            if trace.definition not in left:
                sample = reservoirs.of(trace.definition)
                left[trace.definition] = frozenset(sample.left if sample is not None else ())
            if trace.workload.uuid in left[trace.definition]:
                continue  # a reservoir let it go; `merge` drops it
            try:
                key = identity.key(trace)
            except (SchemaError, OSError) as error:
                why = error if isinstance(error, SchemaError) else SchemaError(str(error))
                self._problem(why.located(found.file, found.line))
                continue
            rival = held[trace.definition].get(key)
            if rival is None or found.raw < rival.found.raw:
                one = _Held(found, Candidate(key, trace.workload.axes), trace.workload.uuid)
                held[trace.definition][key] = one
        return defaultdict(list, {name: list(contents.values()) for name, contents in held.items()})

    def _lines(self, skip: set[Path]) -> Iterator[reading.Found[Trace]]:
        for file in reading.files_below(self._root / layout.WORKLOADS, ".jsonl", self._report.problems):
            for found in reading.read_traces(file, workload=True) if file not in skip else ():
                if found.record is not None:
                    yield found
                elif reading.is_torn(found):
                    self._report.notes.append(f"{file}:{found.line}: the torn last line was passed over")
                else:
                    self._problem(found.error)

    def _definition(
        self,
        definition: Definition,
        held: list[_Held],
        counted: dict[str, int],
        keys: Callable[[Definition], KeyAxes],
        times: call_time.CallTime,
        keep: int,
    ) -> None:
        axes, name = keys(definition), definition.name
        calls, unread = _calls(counted)
        before = [one.candidate for one in held]
        chosen = select(before, calls, axes, call_time.work(definition), keep)
        kept = sorted(
            (one for one in held if one.candidate.identity in chosen),
            key=lambda one: (axes.sizes(one.candidate.axes), one.candidate.identity),
        )
        self.left_out += [one for one in held if one.candidate.identity not in chosen]
        self.kept[name] = kept
        after = [one.candidate for one in kept]
        stood = standing(after, calls, axes, lambda shape: times.of(name, shape), unread)
        self._report.rows.append(
            DefinitionCuration(
                definition=name,
                op_type=definition.op_type,
                keys=axes,
                before=before,
                after=after,
                kept=[
                    Kept(one.uuid, dict(one.candidate.axes), stood.stands_for[one.candidate.identity]) for one in kept
                ],
                calls=calls,
                standing=stood,
                time_source=times.source(name),
            )
        )

    def _problem(self, error: SchemaError | None) -> None:
        self._report.problems.extend((error or SchemaError("unreadable")).flat())


def _calls(counted: dict[str, int]) -> tuple[list[Calls], int]:
    """Counts with their keys read, and the calls whose key is no axes."""
    calls, unread = [], 0
    for key, count in sorted(counted.items()):
        try:
            calls.append(Calls(msgspec.json.decode(key, type=dict[str, int]), count))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            unread += count
    return calls, unread
