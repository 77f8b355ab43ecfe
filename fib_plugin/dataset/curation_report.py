"""CurationReport: what a curation kept of each definition and how much of production that stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fib_plugin.dataset.curation import Calls, Candidate, KeyAxes, Standing
from fib_plugin.schema import SchemaError


@dataclass(frozen=True, slots=True)
class Kept:
    """A workload that was kept, and the calls that it stands for."""

    uuid: str
    axes: dict[str, int]
    stands_for: int


@dataclass(frozen=True, slots=True)
class DefinitionCuration:
    """One definition. `before` and `after` are its distinct workloads; shares are in `standing`."""

    definition: str
    op_type: str
    keys: KeyAxes
    before: list[Candidate]
    after: list[Candidate]
    kept: list[Kept]
    calls: list[Calls]
    standing: Standing
    time_source: str
    """how a call's time is known: `call_time.MEASURED` or `call_time.ESTIMATED`"""

    def to_dict(self) -> dict[str, Any]:
        return {
            "definition": self.definition,
            "op_type": self.op_type,
            "workloads": len(self.before),
            "kept": len(self.after),
            "calls": self.standing.calls,
            "calls_share_exact": self.standing.exact,
            "calls_share_by_class": self.standing.by_class,
            "time_share_exact": self.standing.exact_time,
            "time_share_by_class": self.standing.by_class_time,
            "time_source": self.time_source,
            "workloads_kept": [{"uuid": one.uuid, "axes": one.axes, "stands_for": one.stands_for} for one in self.kept],
        }


@dataclass(slots=True)
class CurationReport:
    """`left_out` is the folder that holds what an in-place curation took out of the dataset, if it took anything."""

    root: Path
    into: Path | None
    dry_run: bool
    rows: list[DefinitionCuration] = field(default_factory=list)
    moved: int = 0
    left_out: Path | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[SchemaError] = field(default_factory=list)

    def total(self) -> dict[str, Any]:
        """All definitions together: their calls and times added up."""
        standings = [row.standing for row in self.rows]
        return {
            "workloads": sum(len(row.before) for row in self.rows),
            "kept": sum(len(row.after) for row in self.rows),
            "calls": sum(one.calls for one in standings),
            "calls_share_exact": _mean((one.exact, one.calls) for one in standings),
            "calls_share_by_class": _mean((one.by_class, one.calls) for one in standings),
            "time_share_exact": _mean((one.exact_time, one.time) for one in standings),
            "time_share_by_class": _mean((one.by_class_time, one.time) for one in standings),
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "dataset": str(self.root),
            "into": None if self.into is None else str(self.into),
            "dry_run": self.dry_run,
            "definitions": [row.to_dict() for row in self.rows],
            "total": self.total(),
            "moved": self.moved,
            "left_out": None if self.left_out is None else str(self.left_out),
            "notes": self.notes,
            "problems": [problem.to_dict() for problem in self.problems],
        }


def _mean(shares: Iterable[tuple[float | None, float]]) -> float | None:
    known = [(share, weight) for share, weight in shares if share is not None]
    total = sum(weight for _, weight in known)
    return sum(share * weight for share, weight in known) / total if total else None
