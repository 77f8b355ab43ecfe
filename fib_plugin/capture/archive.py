"""Archive: where the writer's records become files. Definition and blobs first, whole and synced, then the line."""

from __future__ import annotations

import contextlib
import math
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from fib_plugin.capture.blob import HostTensor, encode, host_tensor
from fib_plugin.capture.derived import Derived, Recipe
from fib_plugin.capture.files import create, sync_folder, write_temporary
from fib_plugin.capture.loss import Loss
from fib_plugin.capture.quota import Quota
from fib_plugin.capture.record import RANDOM, Record
from fib_plugin.capture.shard import Shard
from fib_plugin.dataset import layout
from fib_plugin.schema import Definition, RandomInput, Solution, dump_pretty, parse

Notice = Callable[[Loss, object], None]


class BadRecord(ValueError):
    """A record that no dataset can hold: a defect of the adapter that made it. It is dropped, the message says why."""


class DefinitionConflict(ValueError):
    """The dataset holds another definition under this name; rename or remove it, workloads of ours would not fit it."""


@dataclass(slots=True, eq=False)
class Entry:
    """A record on its way to the disk."""

    record: Record
    nbytes: int
    uuid: str = ""  # given when the record is first staged
    settled: bool = False  # written, dropped, or known already
    digest: bytes = b""
    line: bytes = b""
    temporary: Path | None = None
    blob: Path | None = None
    size: int = 0
    awaited: float = 0.0  # since when its device copy is
    deaths: int = 0  # of the thread, while this was under way


class Archive:
    """The part of a dataset that one process writes. Used by one thread.

    >>> shard = archive.stage(entry)
    >>> if shard is not None: archive.commit(shard, [entry])
    """

    def __init__(
        self,
        root: Path,
        rank: Callable[[], str],
        host: str,
        pid: int,
        quota_bytes: int | None,
        notice: Notice,
    ) -> None:
        self.written = 0
        self.bytes = 0
        self.quota = Quota(root, quota_bytes)
        self._root = root
        self._ask_rank = rank
        self._rank: str | None = None
        self._suffix = f"{host}-{pid}.jsonl"
        self._owner = f"{host}.{pid}"
        self._notice = notice
        self._shards: dict[tuple[str, str], Shard] = {}
        self._verdicts: dict[Path, str] = {}
        self._swept = False

    @property
    def rank(self) -> str:
        """Of this process; the same from the first shard on."""
        return self._ask_rank() if self._rank is None else self._rank

    def stage(self, entry: Entry) -> Shard | None:
        """Check the record, write its blob under a temporary name and make its line. None if it is on disk already."""
        record = entry.record
        inputs, tensors = _contents(record)
        shard = self._shard(record.definition)
        digest = _digest(record.axes, inputs, tensors)
        if digest in shard.seen:
            entry.uuid = shard.seen[digest]
            return None
        entry.uuid = entry.uuid or str(uuid.uuid4())
        size = sum(tensor.data.nbytes for tensor in tensors.values())
        self.quota.check(size)
        self._define(record.definition)
        if record.displaced is not None:
            self._displace(record.definition, record.displaced)
        if tensors:
            path = self._blob_path(entry).relative_to(self._root).as_posix()
            for name in tensors:
                inputs[name] = {"type": "safetensors", "path": path, "tensor_key": name}
            entry.temporary = self._temporary(entry)
            write_temporary(entry.temporary, encode(tensors))
        workload = {"axes": record.axes, "inputs": inputs, "uuid": entry.uuid}
        trace = {"definition": record.definition.name, "workload": workload, "solution": None, "evaluation": None}
        entry.line = msgspec.json.encode(trace)
        entry.size = size
        entry.digest = digest
        shard.seen[digest] = entry.uuid
        return shard

    def commit(self, shard: Shard, entries: list[Entry]) -> None:
        """Give the entries' blobs their names, then append the lines."""
        folders = set()
        for entry in entries:
            if entry.temporary is not None:
                path = self._blob_path(entry)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(entry.temporary, path)
                entry.temporary, entry.blob = None, path
                folders.add(path.parent)
        for folder in folders:
            sync_folder(folder)
        size = shard.append(entry.line for entry in entries) + sum(entry.size for entry in entries)
        for entry in entries:
            entry.blob = None
        if shard.vanished:
            # What was known to be on disk went with the folder.
            shard.vanished = False
            shard.seen = {entry.digest: entry.uuid for entry in entries}
            self._notice(Loss.FOLDER_REMOVED, f"{shard.path} is gone")
        self.quota.add(size)
        self.bytes += size
        self.written += len(entries)

    def forget(self, entry: Entry) -> None:
        """Undo what staging did, so that the record can be tried again or be given up."""
        if entry.digest:
            self._shard(entry.record.definition).seen.pop(entry.digest, None)
        for path in (entry.temporary, entry.blob):
            if path is not None:
                with contextlib.suppress(OSError):
                    path.unlink()
        entry.digest, entry.temporary, entry.blob = b"", None, None

    def sync(self) -> None:
        """Make appended lines survive a power cut."""
        for shard in self._shards.values():
            shard.sync()

    def _shard(self, definition: Definition) -> Shard:
        key = (definition.op_type, definition.name)
        shard = self._shards.get(key)
        if shard is None:
            folder = self._root / layout.WORKLOADS / layout.part(definition.op_type, "op_type")
            if self._rank is None:
                self._rank = self.rank  # not earlier: an engine knows it once its processes have met
            shard = Shard(folder / f"{layout.part(definition.name, 'name')}.rank{self._rank}.{self._suffix}")
            self._shards[key] = shard
        return shard

    def _blob_path(self, entry: Entry) -> Path:
        definition = entry.record.definition
        return layout.blob_folder(self._root, definition) / f"{definition.name}_{entry.uuid}.safetensors"

    def _temporary(self, entry: Entry) -> Path:
        folder = self._root / layout.BLOBS / ".tmp"
        folder.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._swept = True
            _sweep(folder, self._owner)
        return folder / f"{self._owner}.{entry.uuid}"

    def _define(self, definition: Definition) -> None:
        """Make sure the definition's file is there and is ours, or at least takes the same workloads."""
        path = layout.definition_file(self._root, definition)
        verdict = self._verdicts.get(path)
        if verdict is None or not path.exists():
            same = create(path, dump_pretty(definition))
            verdict = "same" if same else _compare(definition, parse(Definition, path.read_bytes(), path))
            self._verdicts[path] = verdict
            if verdict == "differs":
                self._notice(Loss.DEFINITION_DIFFERS, f"{path} has another reference than this process")
        if verdict == "conflict":
            raise DefinitionConflict(
                f"{path} has other axes, inputs or outputs than the live calls; rename or remove it"
            )

    def _displace(self, definition: Definition, solution: Solution) -> None:
        path = layout.solution_file(self._root, solution, definition)
        if path in self._verdicts and path.exists():
            return
        data = dump_pretty(solution)
        same = create(path, data) or path.read_bytes() == data
        self._verdicts[path] = "same" if same else "differs"
        if not same:
            self._notice(Loss.SOLUTION_DIFFERS, f"{path} has other content than this process")


def _contents(record: Record) -> tuple[dict[str, Any], dict[str, HostTensor]]:
    """The record's inputs in the definition's order, as a workload spells them, and the tensors to store."""
    name = record.definition.name
    unknown = set(record.inputs) - set(record.definition.inputs)
    if unknown:
        raise BadRecord(f"{name} has no input {', '.join(sorted(unknown))}")
    if set(record.axes) != set(record.definition.var_axes):
        raise BadRecord(
            f"{name} has the variable axes {record.definition.var_axes}, the call names {list(record.axes)}"
        )
    inputs: dict[str, Any] = {}
    tensors: dict[str, HostTensor] = {}
    made: dict[Recipe, tuple[Any, ...]] = {}
    for key in record.definition.inputs:
        value = record.inputs.get(key, RANDOM)
        if isinstance(value, Derived):
            if value.recipe not in made:
                made[value.recipe] = value.recipe.made()
            value = made[value.recipe][value.index]
            # A graph is captured with other lengths than it is replayed with.
            sizes = zip(record.definition.inputs[key].shape or (), value.shape, strict=True)
            record.axes = record.axes | {axis: size for axis, size in sizes if axis in record.axes}
        inputs[key] = {"type": "random"}
        if record.definition.inputs[key].shape is None and hasattr(value, "item"):
            value = value.item()  # a number that came from a device
        if isinstance(value, (bool, int, float)):
            if not math.isfinite(value):
                raise BadRecord(f"{name}: input {key} is {value}, which JSON cannot hold")
            inputs[key] = {"type": "scalar", "value": value}
        elif not isinstance(value, RandomInput):
            tensors[key] = host_tensor(key, value)
    return inputs, tensors


def _digest(axes: Mapping[str, int], inputs: Mapping[str, Any], tensors: Mapping[str, HostTensor]) -> bytes:
    """Equal for records of one definition that replay the same."""
    digest = blake2b(msgspec.json.encode([sorted(axes.items()), inputs]), digest_size=16)
    for name, tensor in tensors.items():
        digest.update(f"{name}{tensor.code}{tensor.shape}".encode())
        digest.update(tensor.data)
    return digest.digest()


def _compare(ours: Definition, theirs: Definition) -> str:
    if _interface(ours) != _interface(theirs):
        return "conflict"
    return "same" if ours.reference == theirs.reference else "differs"


def _interface(definition: Definition) -> tuple[Any, ...]:
    inputs, outputs = (
        [(name, spec.shape, str(spec.dtype)) for name, spec in specs.items()]
        for specs in (definition.inputs, definition.outputs)
    )
    return definition.op_type, definition.const_axes, set(definition.var_axes), inputs, outputs


def _sweep(folder: Path, owner: str) -> None:
    """Remove temporary blobs that killed processes of this host left behind."""
    host, own = owner.rsplit(".", 1)
    for path in folder.glob(f"{host}.*"):
        pid = path.name.split(".")[1]
        if pid.isdigit() and pid != own and not _alive(int(pid)):
            with contextlib.suppress(OSError):
                path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
