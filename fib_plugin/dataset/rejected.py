"""Records that a merge cannot keep where they were: moved to fib/rejected/<same path> with the reason."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec

from fib_plugin.dataset import layout
from fib_plugin.dataset.lines import append_lines, read_lines


class Rejected(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record as it was found. What is not UTF-8 is in `base64` instead of `text`."""

    file: str
    reason: str
    line: int | None = None
    text: str | None = None
    base64: str | None = None

    @property
    def raw(self) -> bytes:
        return base64.b64decode(self.base64) if self.base64 is not None else (self.text or "").encode()


class RejectedRecords:
    """Adds to fib/rejected of one dataset. A record that an earlier merge moved there is not added again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[Path, set[tuple[str, bytes]]] = {}

    def add(self, relative: Path, file: Path, line: int | None, reason: str, raw: bytes) -> None:
        """Keep a record that stood in `file`; `relative` is the file's path within its dataset."""
        target = self._root / layout.REJECTED / relative.with_suffix(".jsonl")
        known = self._known.get(target)
        if known is None:
            known = self._known[target] = {(entry.file, entry.raw) for entry in _read(target)}
        if (str(file), raw) in known:
            return
        known.add((str(file), raw))
        try:
            entry = Rejected(str(file), reason, line, text=raw.decode())
        except UnicodeDecodeError:
            entry = Rejected(str(file), reason, line, base64=base64.b64encode(raw).decode())
        append_lines(target, [msgspec.json.encode(entry)])


def load_rejected(root: Path) -> list[Rejected]:
    """Everything that was ever rejected in this dataset."""
    return [entry for file in sorted((root / layout.REJECTED).rglob("*.jsonl")) for entry in _read(file)]


def _read(file: Path) -> list[Rejected]:
    entries = []
    if file.exists():
        for _, line in read_lines(file):
            try:
                entries.append(msgspec.json.decode(line, type=Rejected))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # torn by a kill; the merge that was killed is run again and rejects the record again
    return entries
