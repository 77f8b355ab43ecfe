"""What a dataset holds, per definition: workloads, calls in production, solutions, evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fib_plugin.dataset.counts import load_counts
from fib_plugin.dataset.trace_set import TraceSet
from fib_plugin.schema import SchemaError


@dataclass(frozen=True, slots=True)
class DefinitionStats:
    """One row. `share` is this definition's part of all calls counted, 0 when none were."""

    definition: str
    op_type: str
    workloads: int
    calls: int
    share: float
    solutions: int
    traces: int


def stats(root: Path) -> tuple[list[DefinitionStats], list[SchemaError]]:
    """Rows, most called first, and what could not be read."""
    traces = TraceSet.from_path(root, strict=False)
    problems = list(traces.problems)
    calls = {name: sum(keys.values()) for name, keys in load_counts(root, problems).items()}
    total = sum(calls.values())
    # Records whose definition is missing or broken are counted too: they are there.
    names = {*traces.definitions, *traces.workloads, *traces.solutions, *traces.traces, *calls}
    rows = [
        DefinitionStats(
            definition=name,
            op_type=traces.definitions[name].op_type if name in traces.definitions else "?",
            workloads=len(traces.workloads.get(name, ())),
            calls=calls.get(name, 0),
            share=calls.get(name, 0) / total if total else 0.0,
            solutions=len(traces.solutions.get(name, ())),
            traces=len(traces.traces.get(name, ())),
        )
        for name in names
    ]
    return sorted(rows, key=lambda row: (-row.calls, row.op_type, row.definition)), problems
