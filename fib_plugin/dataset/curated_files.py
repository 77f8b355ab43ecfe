"""The files of a curation: the curated copy in another folder, and the place for what an in-place curation leaves out.

`curating` decides what is kept; here it is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from fib_plugin.dataset import layout, reading
from fib_plugin.dataset.blobs import blobs_of, file_hash
from fib_plugin.dataset.counts import read_counts
from fib_plugin.dataset.files import copy_file, write_file
from fib_plugin.dataset.identity import blob_path
from fib_plugin.dataset.lines import append_lines, lock_for, read_lines
from fib_plugin.dataset.trace_set import TraceSet
from fib_plugin.schema import ENGINE_AUTHOR, Definition, SchemaError, Trace

CURATED_OUT = f"{layout.OURS}/curated_out"
"""Where an in-place curation puts what it leaves out, laid out like a dataset."""

Lines = Sequence[reading.Found[Trace]]


class CuratedCopy:
    """A curated dataset in a folder of its own."""

    def __init__(self, root: Path, into: Path, problems: list[SchemaError]) -> None:
        self._root = root
        self._into = into
        self._problems = problems

    def write(self, definitions: Sequence[Definition], kept: Mapping[str, Lines]) -> None:
        """Write what is missing; SchemaError, before anything is written, when other workloads are there."""
        files = {
            layout.workloads_file(self._into, definition): b"".join(
                found.raw + b"\n" for found in kept.get(definition.name, ())
            )
            for definition in definitions
        }
        for file, content in files.items():
            if file.exists() and file.read_bytes() != content:
                raise _taken(file)
        layout.create(self._into)
        target = TraceSet.from_path(self._into, strict=False)
        for definition in definitions:
            target.add_definition(definition)
            self._sidecar(definition)
        names = {definition.name for definition in definitions}
        for found in reading.solutions(self._root):
            if found.record is not None and found.record.author == ENGINE_AUTHOR and found.record.definition in names:
                target.add_solution(found.record)
        for path in sorted({path for lines in kept.values() for path in _blobs(lines)}):
            _copy(self._root / path, self._into / path)
        for file, content in files.items():
            if content and not file.exists():
                write_file(file, content)
        for counts in reading.files_below(self._root / layout.COUNTS, ".json", self._problems):
            self._counts(counts, names)

    def _sidecar(self, definition: Definition) -> None:
        source = layout.evaluation_file(self._root, definition)
        if source.exists():
            _copy(source, layout.evaluation_file(self._into, definition))

    def _counts(self, source: Path, names: set[str]) -> None:
        """The counts of the curated definitions; those that grew since the last curation are brought up to date."""
        target = self._into / layout.COUNTS / source.name
        try:
            counts = read_counts(source)
            counts.calls = {name: keys for name, keys in counts.calls.items() if name in names}
            if target.exists():
                counts.calls = {**read_counts(target).calls, **counts.calls}
        except SchemaError:
            return  # reading the counts has reported it
        content = msgspec.json.encode(counts)
        if counts.calls and not (target.exists() and target.read_bytes() == content):
            write_file(target, content)


def move_out(root: Path, left_out: Lines) -> int:
    """Move workloads from a dataset to its fib/curated_out; how many there were. The caller holds the merge's lock.

    Copies come first and removals last, so a kill in between leaves everything in one of the two places or in both.
    """
    aside = root / CURATED_OUT
    by_file: dict[Path, list[bytes]] = defaultdict(list)
    for found in left_out:
        by_file[found.file].append(found.raw)
    for path in sorted(_blobs(left_out)):
        _copy(root / path, aside / path)
    for file, lines in by_file.items():
        _move_lines(file, aside / file.relative_to(root), lines)
    _remove_moved_blobs(root, aside)
    return len(left_out)


def _move_lines(file: Path, aside: Path, lines: Sequence[bytes]) -> None:
    known = {line for _, line in read_lines(aside)} if aside.exists() else set()
    append_lines(aside, [line for line in lines if line not in known])
    gone = set(lines)
    with lock_for(file):
        write_file(file, b"".join(line + b"\n" for _, line in read_lines(file) if line not in gone))


def _remove_moved_blobs(root: Path, aside: Path) -> None:
    """Remove blobs whose copy lies in curated_out, unless a workload or an evaluation of the dataset names them."""
    moved = {file.relative_to(aside).as_posix() for file in reading.files_below(aside / layout.BLOBS, "")}
    moved = {path for path in moved if (root / path).exists()}
    if not moved:
        return
    for found in (*reading.workloads(root), *reading.traces(root)):
        if found.record is not None:
            moved -= _blobs([found])
    for path in moved:
        if file_hash(root / path) == file_hash(aside / path):
            (root / path).unlink()


def _blobs(lines: Lines) -> set[str]:
    workloads = [found.record.workload for found in lines if found.record is not None]
    return {blob_path(source.path) for workload in workloads for source in blobs_of(workload).values()}


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        copy_file(source, target)
    elif file_hash(source) != file_hash(target):
        raise _taken(target)


def _taken(file: Path) -> SchemaError:
    return SchemaError(
        "this file is there already, with other content", file=file, remedy="curate into an empty folder"
    )
