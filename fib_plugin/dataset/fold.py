"""Folds the shards of a dataset into one workload file a definition: no duplicates, no loss, safe to run again.

A kill at any point leaves each record in at least one file; the next run drops the second copy.
"""

from __future__ import annotations

import fcntl
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fib_plugin.dataset import layout, reading
from fib_plugin.dataset.blobs import blobs_of
from fib_plugin.dataset.files import write_file
from fib_plugin.dataset.identity import Identity, blob_path, canonical
from fib_plugin.dataset.lines import lock_for
from fib_plugin.dataset.merge_report import MergeReport
from fib_plugin.dataset.owner import is_written
from fib_plugin.dataset.reservoirs import Reservoirs
from fib_plugin.schema import SchemaError, Trace, dump_line


def fold(root: Path, report: MergeReport, every: bool = False) -> None:
    """Fold all shards whose process is gone; with `every`, those of living processes too."""
    groups: dict[Path, list[layout.Shard]] = defaultdict(list)
    for file in reading.files_below(root / layout.WORKLOADS, ".jsonl", report.problems):
        shard = layout.shard_of(file)
        if shard is None:
            _ = groups[file]
        elif every or not is_written(shard):
            groups[shard.base].append(shard)
        else:
            report.shards_left.append(file)
    _fold(root, groups, report)


def prune(root: Path, bases: Iterable[Path], report: MergeReport) -> None:
    """Drop from these workload files what reservoirs let go."""
    _fold(root, {base: [] for base in bases}, report)


def _fold(root: Path, groups: Mapping[Path, list[layout.Shard]], report: MergeReport) -> None:
    identity, reservoirs = Identity(root), Reservoirs(root, report.problems)
    dropped: set[str] = set()
    for base, shards in groups.items():
        try:
            with lock_for(base):
                _Group(root, base, shards, identity, reservoirs, report, dropped).fold()
        except SchemaError as error:
            report.problems.extend(error.flat())
        except OSError as error:
            report.problems.append(SchemaError(f"cannot be folded: {error}", file=base, remedy="run the merge again"))
    _remove_blobs(root, dropped, report)


class _Group:
    """One workload file and its shards."""

    def __init__(
        self,
        root: Path,
        base: Path,
        shards: list[layout.Shard],
        identity: Identity,
        reservoirs: Reservoirs,
        report: MergeReport,
        dropped: set[str],
    ) -> None:
        self._root = root
        self._base = base
        self._shards = shards
        self._identity = identity
        self._reservoirs = reservoirs
        self._report = report
        self._dropped = dropped
        self._kept: dict[str, bytes] = {}
        self._blobs: set[str] = set()
        self._changed = False
        self._definition = base.name.removesuffix(".jsonl")
        self._held = reservoirs.of(self._definition)
        self._left = frozenset(self._held.left if self._held is not None else ())
        self._uuids: dict[str, str] = {}
        """Uuid of each workload that is kept, by content."""
        self._same: dict[str, str] = {}
        """Uuid of a duplicate -> that of the line that was kept."""

    def fold(self) -> None:
        # Who is in the reservoir must be known before anything is dropped: else a kill in between leaves lines of
        # which nobody knows any more that they were let go.
        self._write_held()
        if self._base.exists():
            self._take(self._base, own=True)
        for shard in self._shards:
            with _emptying(shard, self._report):
                self._take(shard.path, own=False)
                # The shard is emptied next, so its records must be safe by now.
                self._write()
        self._write()
        self._dropped -= self._blobs

    def _write(self) -> None:
        self._write_held()
        if self._changed:
            write_file(self._base, b"".join(line + b"\n" for line in self._kept.values()))
            self._changed = False

    def _write_held(self) -> None:
        if self._held is not None:
            held = self._held.renamed(self._same) if self._same else self._held
            self._reservoirs.write(self._base.parent.name, self._definition, held)

    def _take(self, file: Path, own: bool) -> None:
        for found in reading.read_traces(file, workload=True):
            if found.record is None:
                self._put_aside(found)
                self._changed |= own
                continue
            uuid = found.record.workload.uuid
            blobs = {blob_path(source.path) for source in blobs_of(found.record.workload).values()}
            if uuid in self._left:
                self._dropped |= blobs
                self._report.let_go += 1
                self._changed |= own
                continue
            key = self._key(found.record)
            if key in self._kept:
                self._dropped |= blobs
                self._same[uuid] = self._uuids[key]
                self._report.duplicates += 1
                self._changed |= own
                continue
            self._kept[key] = found.raw
            self._uuids[key] = uuid
            self._blobs |= blobs
            if not own:
                self._report.added["workloads"] += 1
                self._changed = True

    def _key(self, trace: Trace) -> str:
        try:
            return self._identity.key(trace)
        except (SchemaError, OSError):
            # Its blob is missing, which `validate` reports: without content only an equal line is the same.
            return canonical(dump_line(trace).decode())

    def _put_aside(self, found: reading.Found[Trace]) -> None:
        error = found.error or SchemaError("unreadable")
        if not found.raw:
            # The file itself cannot be read: leave it, and whatever would be written over it, alone.
            raise error
        relative = found.file.relative_to(self._root)
        if reading.is_torn(found):
            self._report.reject_torn(found.file, relative, found.raw, found.line)
        else:
            self._report.reject(found.file, relative, error, found.raw, found.line)


@contextmanager
def _emptying(shard: layout.Shard, report: MergeReport) -> Iterator[None]:
    """Hold the shard as its writer does, and take it away once its records are elsewhere."""
    fd = os.open(shard.path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
        if is_written(shard):
            # Its writer may have the file open: a removed file would swallow its next lines, an empty one does not.
            os.ftruncate(fd, 0)
        else:
            shard.path.unlink(missing_ok=True)
        report.shards_folded.append(shard.path)
    finally:
        os.close(fd)


def _remove_blobs(root: Path, dropped: set[str], report: MergeReport) -> None:
    """Remove blobs that only dropped duplicates named: their content is in the blob of the line that was kept."""
    if not dropped:
        return
    for found in (*reading.workloads(root), *reading.traces(root)):
        if found.record is not None:
            dropped -= {blob_path(source.path) for source in blobs_of(found.record.workload).values()}
    for path in dropped:
        file = root / path
        # Only blobs in the place of captured ones: elsewhere a person may have put the file.
        if path.startswith(f"{layout.BLOBS}/") and file.exists():
            file.unlink()
            report.blobs_removed += 1
