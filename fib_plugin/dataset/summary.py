"""What a dataset holds, per definition: workloads, calls in production, solutions, evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fib_plugin.dataset import call_time
from fib_plugin.dataset.counts import axes_key, load_counts
from fib_plugin.dataset.curation import KeyAxes
from fib_plugin.dataset.measurements import load_measurements
from fib_plugin.dataset.trace_set import TraceSet
from fib_plugin.schema import Definition, SchemaError


@dataclass(frozen=True, slots=True)
class DefinitionStats:
    """One row.

    Args:
        shapes: different axes among the calls counted and the workloads.
        share: this definition's part of all calls counted, 0 when none were.
        time_share: its part of the time of all measured definitions, a call taking as long as the engine's op took at
            the nearest measured size; None when it was not measured or not called.
    """

    definition: str
    op_type: str
    workloads: int
    calls: int
    share: float
    solutions: int
    traces: int
    shapes: int = 0
    time_share: float | None = None


def stats(
    root: Path, keys: Callable[[Definition], KeyAxes] = call_time.key_axes
) -> tuple[list[DefinitionStats], list[SchemaError]]:
    """Rows, most called first, and what could not be read.

    Args:
        keys: key axes of a definition; they say which measured size is nearest.
    """
    traces = TraceSet.from_path(root, strict=False)
    problems = list(traces.problems)
    counts = load_counts(root, problems)
    calls = {name: sum(shapes.values()) for name, shapes in counts.items()}
    total = sum(calls.values())
    measurements = load_measurements(root, problems)
    times = _times(traces.definitions, counts, call_time.CallTime(traces.definitions, measurements, keys))
    all_time = sum(times.values())
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
            shapes=len(
                {*counts.get(name, ()), *(axes_key(one.workload.axes) for one in traces.workloads.get(name, ()))}
            ),
            time_share=times[name] / all_time if all_time and name in times else None,
        )
        for name in names
    ]
    return sorted(rows, key=lambda row: (-row.calls, row.op_type, row.definition)), problems


def _times(
    definitions: dict[str, Definition], counts: dict[str, dict[str, int]], times: call_time.CallTime
) -> dict[str, float]:
    """Definition -> time of all its calls, where measured."""
    found: dict[str, float] = {}
    for name, shapes in counts.items():
        if name in definitions and times.source(name) == call_time.MEASURED:
            for key, count in shapes.items():
                try:
                    axes = msgspec.json.decode(key, type=dict[str, int])
                except msgspec.MsgspecError:
                    continue  # another tool's spelling: no time is known
                found[name] = found.get(name, 0.0) + times.of(name, axes) * count
    return found
