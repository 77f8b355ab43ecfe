"""Selection: which solutions run on which workloads of a dataset, in which order, and why nothing does."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fib_plugin.bench.displaced import displaced_ops
from fib_plugin.dataset import Measurement, TraceSet, axes_key, compatible, load_counts
from fib_plugin.dataset.measurements import LIVE
from fib_plugin.schema import ENGINE_AUTHOR, Definition, Environment, Language, Solution, Workload, content_hash


class BenchError(ValueError):
    """Nothing can be benchmarked as asked; the message says what to change."""


@dataclass(slots=True)
class Batch:
    """What is to be done for one definition: per workload the solutions, engine's first."""

    definition: Definition
    jobs: list[tuple[Workload, list[Solution]]]
    displaced: list[Solution]

    def copy(self) -> Batch:
        """One from which solutions can be dropped without loss to this one."""
        return Batch(
            self.definition, [(workload, list(chosen)) for workload, chosen in self.jobs], list(self.displaced)
        )


def select(
    traceset: TraceSet,
    definitions: Sequence[str] | None,
    solutions: Sequence[str] | None,
    workloads: int | None,
    op_type: str | None,
    author: str | None,
    candidates: Sequence[Solution] | None = None,
) -> Iterator[Batch]:
    """What is asked for, by definition; ``candidates`` are benched in place of the dataset's solutions."""
    counts = load_counts(traceset.root) if traceset.root is not None else {}
    for name, definition in sorted(traceset.definitions.items()):
        if not _named(name, definitions) or (op_type is not None and definition.op_type != op_type):
            continue
        known = traceset.solutions.get(name, [])
        offered = known if candidates is None else [s for s in candidates if s.definition == name]
        chosen = [s for s in offered if _named(s.name, solutions) and (author is None or s.author == author)]
        # The engine's own first: when it fails here, it is no yardstick for the others.
        chosen.sort(key=lambda s: (s.author != ENGINE_AUTHOR, s.author, s.name))
        calls = counts.get(name, {})
        lines = sorted(traceset.workloads.get(name, []), key=lambda line: -calls.get(axes_key(line.workload.axes), 0))
        if chosen and lines:
            jobs = [(line.workload, list(chosen)) for line in lines[:workloads]]
            yield Batch(definition, jobs, displaced_ops(known, definition))


def _named(name: str, patterns: Sequence[str] | None) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def why_nothing(
    traceset: TraceSet,
    definitions: Sequence[str] | None,
    solutions: Sequence[str] | None,
    op_type: str | None,
    author: str | None,
) -> str:
    where = traceset.root or "the dataset"
    matching = [d for n, d in traceset.definitions.items() if _named(n, definitions) and op_type in (None, d.op_type)]
    if not traceset.definitions:
        return f"{where} has no definitions (capture some with FIB_ENABLE_TRACING=1, or name another --dataset)"
    if not matching:
        return f"no definition in {where} matches (there are {', '.join(sorted(traceset.definitions)[:8])}, ...)"
    if not any(traceset.workloads.get(d.name) for d in matching):
        return f"{where} has no workloads for what was asked (capture some with FIB_ENABLE_TRACING=1)"
    if solutions or author:
        return f"no solution in {where} matches (list them with `fib dataset stats`)"
    return f"{where} has no solutions for what was asked (`fib pack --dataset {where}` adds the shipped ones)"


def drop_foreign(batches: Sequence[Batch], device: str) -> set[str]:
    """Take out solutions that are not meant for this host; their names.

    Triton's interpreter makes its kernels run on a CPU, thousands of times slower: only for who asks for it.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"

    def here(solution: Solution) -> bool:
        if interpreted and solution.spec.language is Language.TRITON:
            return True
        return any(("cpu" in target.lower()) == (device == "cpu") for target in solution.spec.target_hardware)

    foreign = set()
    for batch in batches:
        batch.displaced = [solution for solution in batch.displaced if here(solution)]
        for index, (workload, chosen) in enumerate(batch.jobs):
            foreign |= {solution.name for solution in chosen if not here(solution)}
            batch.jobs[index] = (workload, [solution for solution in chosen if here(solution)])
    return foreign


def drop_measured(
    batches: Sequence[Batch],
    measured: Sequence[Measurement],
    environment: Environment,
    judged_by: Mapping[str, str] | None = None,
) -> None:
    """Take out what was measured before in this environment; ``judged_by``: evaluation hash by definition."""
    baselines: dict[tuple[str, str, str], set[str | None]] = {}
    for one in measured:
        if judged_by is not None and one.evaluation != judged_by.get(one.definition):
            continue  # by other tolerances: another question
        if one.doubt:
            continue  # measured so that it proves nothing
        if one.source != LIVE and compatible(Environment(hardware=one.hardware, libs=one.libs), environment) is None:
            key = (one.definition, one.solution_hash, one.workload)
            # A failed run compares with nothing; a passed one counts for the op it was compared with.
            baselines.setdefault(key, set()).add(one.baseline_hash if one.status == "PASSED" else None)
    for batch in batches:
        yardsticks = {content_hash(op) for op in batch.displaced} or {""}
        for index, (workload, solutions) in enumerate(batch.jobs):
            left = []
            for solution in solutions:
                digest = content_hash(solution)
                seen = baselines.get((batch.definition.name, digest, workload.uuid), set())
                if not seen & (yardsticks | {None, digest}):
                    left.append(solution)
            batch.jobs[index] = (workload, left)
