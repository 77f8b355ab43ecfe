"""Call counts: how often each shape ran. One file per capturing process in fib/counts; readers add them up.

The file is {"version": 1, "host", "pid", "started", "calls": {definition: {axes key: count}}}.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fib_plugin.dataset import layout
from fib_plugin.dataset.files import write_file
from fib_plugin.schema import SchemaError

Calls = dict[str, dict[str, int]]
VERSION = 1


class CountsFile(msgspec.Struct, kw_only=True):
    """Content of one file."""

    version: int
    host: str
    pid: int
    started: str | int | float
    calls: Calls


def axes_key(axes: Mapping[str, int]) -> str:
    """The key under which a shape is counted: its axes as JSON, keys sorted, without spaces.

    >>> axes_key({"M": 4, "B": 1})
    '{"B":1,"M":4}'
    """
    return msgspec.json.encode(dict(sorted(axes.items()))).decode()


def read_counts(file: Path) -> CountsFile:
    """One file; SchemaError when it is not what this module describes."""
    try:
        counts = msgspec.json.decode(file.read_bytes(), type=CountsFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        raise SchemaError(f"unreadable call counts: {error}", file=file, remedy="remove the file") from error
    if counts.version != VERSION:
        raise SchemaError(
            f"call counts of version {counts.version}, this reads {VERSION}",
            file=file,
            field="version",
            remedy="read the dataset with the fib-plugin that wrote it, or newer",
        )
    return counts


def load_counts(root: Path, problems: list[SchemaError] | None = None) -> Calls:
    """definition -> axes key -> calls, over all processes. Unreadable files go to `problems` and stop nothing."""
    total: Calls = {}
    for file in sorted((Path(root) / layout.COUNTS).glob("*.json")):
        try:
            calls = read_counts(file).calls
        except SchemaError as error:
            if problems is not None:
                problems.append(error)
            continue
        for definition, keys in calls.items():
            sums = total.setdefault(definition, {})
            for key, count in keys.items():
                sums[key] = sums.get(key, 0) + count
    return total


def take_larger(source: Path, target: Path) -> bool:
    """Bring one process's file up to date from a copy of it; whether anything changed.

    The same name is the same process, and its counts only grow: of two copies the larger number is the later one.
    """
    new = read_counts(source)
    if not target.exists():
        write_file(target, source.read_bytes())
        return True
    old = read_counts(target)
    merged: dict[str, Any] = {name: dict(keys) for name, keys in old.calls.items()}
    for name, keys in new.calls.items():
        known = merged.setdefault(name, {})
        for key, count in keys.items():
            known[key] = max(count, known.get(key, 0))
    if merged == old.calls:
        return False
    old.calls = merged
    write_file(target, msgspec.json.encode(old))
    return True
