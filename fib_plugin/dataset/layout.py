"""Where each record of a dataset lives on disk. Names become folders and files here and nowhere else."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path

from fib_plugin.schema import Definition, SchemaError, Solution

DEFINITIONS = "definitions"
SOLUTIONS = "solutions"
WORKLOADS = "workloads"
TRACES = "traces"
BLOBS = "blob/workloads"
OURS = "fib"
"""Everything that FlashInfer Trace has no place for is below this folder."""
MEASUREMENTS = f"{OURS}/measurements"
COUNTS = f"{OURS}/counts"
EVALUATION = f"{OURS}/evaluation"
RESERVOIRS = f"{OURS}/reservoirs"
REJECTED = f"{OURS}/rejected"
DOCUMENTS = f"{OURS}/documents"
"""No file: what writers of definitions and solutions lock."""

FOLDERS = (DEFINITIONS, SOLUTIONS, WORKLOADS, TRACES, BLOBS, OURS)

_SHARD = re.compile(r"(?P<base>.+)\.rank(?P<rank>[^.]+)\.(?:(?P<host>[A-Za-z0-9_-]+)-)?(?P<pid>\d+)\.jsonl")


def part(name: str, field: str) -> str:
    """A name as one path component; SchemaError when it would lead elsewhere."""
    if name in ("", ".", "..") or any(char in name for char in "/\\\0"):
        raise SchemaError(
            f"{name!r} cannot be a file name", field=field, remedy="use letters, digits, '-', '_' and '.' only"
        )
    return name


def definition_file(root: Path, definition: Definition) -> Path:
    return root / DEFINITIONS / part(definition.op_type, "op_type") / f"{part(definition.name, 'name')}.json"


def solution_file(root: Path, solution: Solution, definition: Definition) -> Path:
    folder = root / SOLUTIONS / part(solution.author, "author") / part(definition.op_type, "op_type")
    return folder / part(definition.name, "definition") / f"{part(solution.name, 'name')}.json"


def workloads_file(root: Path, definition: Definition) -> Path:
    return root / WORKLOADS / part(definition.op_type, "op_type") / f"{part(definition.name, 'name')}.jsonl"


def traces_file(root: Path, author: str, definition: Definition) -> Path:
    folder = root / TRACES / part(author, "author") / part(definition.op_type, "op_type")
    return folder / f"{part(definition.name, 'name')}.jsonl"


def measurements_file(root: Path, op_type: str, definition: str) -> Path:
    return root / MEASUREMENTS / part(op_type, "op_type") / f"{part(definition, 'definition')}.jsonl"


def evaluation_file(root: Path, definition: Definition) -> Path:
    return root / EVALUATION / part(definition.op_type, "op_type") / f"{part(definition.name, 'name')}.yaml"


def create(root: Path) -> list[Path]:
    """Make the folders of an empty dataset; those that were missing are returned."""
    if root.exists() and not root.is_dir():
        raise SchemaError("a file stands where the dataset should be", file=root, remedy="choose another path")
    missing = [root / folder for folder in FOLDERS if not (root / folder).is_dir()]
    for folder in missing:
        folder.mkdir(parents=True, exist_ok=True)
    return missing


def blob_folder(root: Path, definition: Definition) -> Path:
    return root / BLOBS / part(definition.op_type, "op_type") / part(definition.name, "name")


@dataclass(frozen=True, slots=True)
class Shard:
    """A workload file that one process of one rank writes: `<definition>.rank<rank>.<host>-<pid>.jsonl`.

    Without a host it belongs to a process of this one.
    """

    path: Path
    base: Path
    rank: str
    host: str | None
    pid: int


def shard_of(path: Path) -> Shard | None:
    """The parts of a shard's name, or None for a file that is no shard."""
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return None
    base = path.with_name(f"{match['base']}.jsonl")
    return Shard(path, base, match["rank"], match["host"], int(match["pid"]))


def this_host() -> str:
    """This machine's name as it stands in the names of shards and counts."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "host"
