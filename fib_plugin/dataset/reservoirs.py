"""Reservoirs: which workloads are a uniform sample of production's calls, and which were let go for others.

A process whose policy is `reservoir` writes down more workloads than it keeps, since its files only grow. What it holds
stands in fib/reservoirs/<host>.<pid>.<started>.json, with a random key for each call; the calls of the smallest keys of
all processes are a uniform sample of all their calls. `merge` notes these in fib/reservoirs/<op type>/<definition>.json
and drops what was let go. Workloads that no file names count like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from fib_plugin.dataset import layout, reading
from fib_plugin.dataset.files import write_file
from fib_plugin.schema import SchemaError

VERSION = 2


class Held(msgspec.Struct, kw_only=True, frozen=True):
    """What one reservoir holds.

    Args:
        k: how many calls it has room for.
        members: random key and workload's uuid of each call, smallest key first; calls of equal content share a uuid.
        left: workloads that were in it and are no more.
    """

    k: int
    members: list[tuple[float, str]] = []
    left: list[str] = []

    def renamed(self, names: dict[str, str]) -> Held:
        """The same with other uuids in place of some."""
        members = [(key, names.get(uuid, uuid)) for key, uuid in self.members]
        kept = {uuid for _, uuid in members}
        return Held(k=self.k, members=members, left=[uuid for uuid in self.left if uuid not in kept])


class ProcessFile(msgspec.Struct, kw_only=True):
    """Content of a process's file: its reservoirs by definition."""

    version: int = VERSION
    host: str
    pid: int
    started: float
    held: dict[str, Held]


class MergedFile(msgspec.Struct, kw_only=True):
    """Content of a definition's file."""

    version: int = VERSION
    held: Held


def pooled(parts: Iterable[Held]) -> Held | None:
    """One reservoir in place of several; of the same call in several, the first one's uuid counts.

    It has room for as many calls as the smallest of them: a larger one would hold more of one stream than of another.
    """
    parts = list(parts)
    if not parts:
        return None
    calls: dict[float, str] = {}
    for part in parts:
        for key, uuid in part.members:
            calls.setdefault(key, uuid)
    k = min(part.k for part in parts)
    ordered = sorted(calls.items())
    kept = {uuid for _, uuid in ordered[:k]}
    left = {uuid for part in parts for uuid in part.left} | {uuid for _, uuid in ordered[k:]}
    return Held(k=k, members=ordered[:k], left=sorted(left - kept))


class Reservoirs:
    """What a dataset's files say, read once.

    >>> held = Reservoirs(root).of("top_p_sampling_from_probs_v128256")
    """

    def __init__(self, root: Path, problems: list[SchemaError] | None = None) -> None:
        self._root = root
        self._merged: dict[str, Held] = {}
        self._processes: dict[str, list[Held]] = {}
        for file in reading.files_below(root / layout.RESERVOIRS, ".json", problems):
            try:
                if file.parent == root / layout.RESERVOIRS:
                    for name, held in _read(file, ProcessFile).held.items():
                        self._processes.setdefault(name, []).append(held)
                else:
                    self._merged[file.name.removesuffix(".json")] = _read(file, MergedFile).held
            except SchemaError as error:
                if problems is not None:
                    problems.append(error)

    def of(self, definition: str) -> Held | None:
        """The reservoir of all processes together; None where no policy let anything go."""
        merged = self._merged.get(definition)
        return pooled([*([merged] if merged is not None else []), *self._processes.get(definition, ())])

    def write(self, op_type: str, definition: str, held: Held) -> None:
        """Makes ``held`` what the dataset says of the definition; nothing is written if it says so already."""
        if self._merged.get(definition) == held:
            return
        folder = self._root / layout.RESERVOIRS / layout.part(op_type, "op_type")
        write_file(folder / f"{layout.part(definition, 'definition')}.json", msgspec.json.encode(MergedFile(held=held)))
        self._merged[definition] = held


def _read(file: Path, content: type[Any]) -> Any:
    try:
        found = msgspec.json.decode(file.read_bytes(), type=content)
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        raise _unreadable(file, str(error)) from error
    if found.version != VERSION:
        raise _unreadable(file, f"version {found.version}, this reads {VERSION}")
    return found


def _unreadable(file: Path, why: str) -> SchemaError:
    remedy = "remove the file; all workloads of its reservoirs count then"
    return SchemaError(f"unreadable members of reservoirs: {why}", file=file, remedy=remedy)
