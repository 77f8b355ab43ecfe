"""MergeReport: what a merge did, for the person who ran it and for machines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fib_plugin.dataset.rejected import RejectedRecords
from fib_plugin.schema import SchemaError


@dataclass(slots=True)
class MergeReport:
    """`added` counts new records by kind, `let_go` workloads that a reservoir holds no more.

    Problems want a look; notes are repaired traces of killed processes."""

    root: Path
    added: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    let_go: int = 0
    rejected: int = 0
    shards_folded: list[Path] = field(default_factory=list)
    shards_left: list[Path] = field(default_factory=list)
    blobs_removed: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[SchemaError] = field(default_factory=list)
    _aside: RejectedRecords = field(init=False)

    def __post_init__(self) -> None:
        self._aside = RejectedRecords(self.root)

    def reject(self, file: Path, relative: Path, error: SchemaError, raw: bytes, line: int | None = None) -> None:
        """Move a record aside and report it as a problem."""
        self._aside.add(relative, file, line, error.problem, raw)
        self.rejected += 1
        self.problems.extend(error.located(file, line).flat())

    def reject_torn(self, file: Path, relative: Path, raw: bytes, line: int | None) -> None:
        """Move the unfinished last line of a killed process aside; that is expected, and no problem."""
        self._aside.add(relative, file, line, "torn last line", raw)
        self.rejected += 1
        self.notes.append(f"{file}:{line}: the torn last line was moved to fib/rejected")

    def to_dict(self) -> dict[str, Any]:
        return {
            "into": str(self.root),
            "added": dict(self.added),
            "duplicates": self.duplicates,
            "let_go": self.let_go,
            "rejected": self.rejected,
            "shards_folded": [str(path) for path in self.shards_folded],
            "shards_left": [str(path) for path in self.shards_left],
            "blobs_removed": self.blobs_removed,
            "notes": self.notes,
            "problems": [problem.to_dict() for problem in self.problems],
        }
