"""A Table of a dataset that is in memory; engines open a Catalog, which reads the files that it needs."""

from __future__ import annotations

from fib_plugin import ops
from fib_plugin.dataset import TraceSet, load_measurements
from fib_plugin.dispatch.evidence import Evidence, Winner
from fib_plugin.dispatch.table import Table
from fib_plugin.schema import Environment, SchemaError, content_hash


def table_of(
    traces: TraceSet,
    environment: Environment,
    margin: float = 0.03,
    any_hardware: bool = False,
    problems: list[SchemaError] | None = None,
) -> Table:
    by_name = {s.name: s for group in traces.solutions.values() for s in group}
    winners = {name: Winner(name, content_hash(solution), solution.author) for name, solution in by_name.items()}
    families = {name: f for name, d in traces.definitions.items() if (f := ops.family_of(d)) is not None}
    evidence = Evidence(winners, families, environment, margin, any_hardware)
    for measurement in load_measurements(traces.root, problems) if traces.root is not None else []:
        evidence.add(measurement)
    return Table(evidence.standings(), evidence.rejected)
