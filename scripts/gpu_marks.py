"""Datasets in which watermarked solutions are proven (watermarks.py), for gpu_sglang.py and the engine tests.

What runs in CUDA graphs is told from what does not by the rows of a call: a call of more than MOST_ROWS is not marked,
except by prefill attention.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from watermarks import solution

from fib_plugin import ops
from fib_plugin.dataset import Measurement, TraceSet, append_measurements, current_environment
from fib_plugin.dispatch.trust import add
from fib_plugin.schema import ENGINE_AUTHOR, Definition, Solution, SourceFile, content_hash

MOST_ROWS = 8

_FEW_ROWS = """

_marked = run


def run(*inputs):
    return (_marked if inputs[0].shape[0] <= {rows} else _right)(*inputs)
"""


def marked(definition: Definition) -> Solution | None:
    """watermarks.solution, marked in decode only."""
    made, family = solution(definition), ops.family_of(definition)
    if made is None or family is None or family.family == "gqa_paged_prefill":
        return made
    (source,) = made.sources
    text = source.content + _FEW_ROWS.format(rows=MOST_ROWS)
    return made.model_copy(update={"sources": [SourceFile(path=source.path, content=text)]})


def prove(root: Path, lock: Path, sizes: Iterable[int]) -> list[str]:
    """Gives every definition of the dataset at ``root`` a marked solution that is measured to win, and trusts it.

    Where it is measured: at what was captured, and with requests of that length at ``sizes``.
    """
    traces = TraceSet.from_path(root)
    proven = []
    for name, definition in sorted(traces.definitions.items()):
        made = marked(definition)
        engine = next((s for s in traces.solutions.get(name, []) if s.author == ENGINE_AUTHOR), None)
        captured = [trace.workload.axes for trace in traces.workloads.get(name, [])]
        if made is None or engine is None or not captured:
            continue
        traces.add_solution(made)
        every = [*captured, *(resized(definition, axes, size) for axes in captured for size in sizes)]
        append_measurements(root, definition.op_type, won(made, engine, every))
        add(lock, {made.name: made}, {})
        proven.append(name)
    return proven


def won(made: Solution, baseline: Solution, sizes: Iterable[dict[str, int]]) -> list[Measurement]:
    """Measurements of this host in which ``made`` is twice as fast as ``baseline``, which nobody measured."""
    environment = current_environment()
    return [
        Measurement(
            run="forged",
            definition=made.definition,
            axes=axes,
            workload=str(sorted(axes.items())),
            solution=made.name,
            solution_hash=content_hash(made),
            baseline=baseline.name,
            baseline_hash=content_hash(baseline),
            status="PASSED",
            solution_ms=1.0,
            baseline_ms=2.0,
            ratio=2.0,
            ratio_low=1.9,
            hardware=environment.hardware,
            libs=environment.libs,
            timestamp="2026-01-01T00:00:00+00:00",
        )
        for axes in sizes
    ]


def resized(definition: Definition, axes: dict[str, int], size: int) -> dict[str, int]:
    """The axes of a call of another size whose requests are as long as those of ``axes``."""
    family = ops.family_of(definition)
    assert family is not None
    changed = {**axes, family.key_axes[0]: size}
    if family.family == "gqa_paged_decode":
        mean = axes["num_kv_indices"] // (axes["len_indptr"] - 1)
        changed |= {"len_indptr": size + 1, "num_kv_indices": size * mean}
    return changed
