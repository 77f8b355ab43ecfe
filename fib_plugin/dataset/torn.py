"""Repairs files whose last line a killed process left unfinished. Called by merge, before it adds to a dataset."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from fib_plugin.dataset import layout, reading
from fib_plugin.dataset.lines import ends_torn, lock_for
from fib_plugin.dataset.merge_report import MergeReport
from fib_plugin.schema import SchemaError


def repair(root: Path, report: MergeReport) -> None:
    """Move the unfinished last lines of a dataset's files to fib/rejected, with a note each.

    Shards are left to `fold`, which knows whether their process still writes. A last line that is whole and only lacks
    its newline is no damage.
    """
    for folder in (layout.WORKLOADS, layout.TRACES, layout.MEASUREMENTS):
        for file in reading.files_below(root / folder, ".jsonl", report.problems):
            try:
                if layout.shard_of(file) is None and ends_torn(file):
                    with lock_for(file):  # nobody is in the middle of appending now
                        _cut(root, file, report)
            except OSError as error:
                report.problems.append(SchemaError(f"cannot be repaired: {error}", file=file, remedy="see its mode"))


def _cut(root: Path, file: Path, report: MergeReport) -> None:
    if not ends_torn(file):
        return
    content = file.read_bytes()
    whole, newline, tail = content.rpartition(b"\n")
    try:
        msgspec.json.decode(tail)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        report.reject_torn(file, file.relative_to(root), tail, content.count(b"\n") + 1)
        os.truncate(file, len(whole) + len(newline))
