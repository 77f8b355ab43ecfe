"""Solutions that can be marked while they run inside CUDA graphs, and datasets in which they are proven.

A graph holds what was captured, so a mark is a number on the device that the solution adds times a flag, and that
scripts/sglang_probe.py raises and lowers between two replays. Decode is marked apart from prefill: a call of more than
MOST_ROWS rows is left alone, except by prefill attention.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fib_plugin import ops, pack
from fib_plugin.build.builder import ENGINE_AUTHOR
from fib_plugin.dataset import Measurement, TraceSet, append_measurements, current_environment
from fib_plugin.dispatch.trust import add
from fib_plugin.schema import BuildSpec, Definition, Language, Solution, SourceFile, content_hash

MOST_ROWS = 8
#: Families whose references read lengths on the host, which no graph can hold: a shipped kernel, and its outputs.
_SHIPPED = {
    "gqa_paged_decode": "torch.empty_like(inputs[0]), torch.empty(inputs[0].shape[:2], device=inputs[0].device)",
    "gqa_paged_prefill": "torch.empty_like(inputs[0]), torch.empty(inputs[0].shape[:2], device=inputs[0].device)",
    "moe": "torch.empty_like(inputs[0]),",
}

_ALLOCATING = """

import torch


def run(*inputs):
    outputs = ({outputs})
    {entry}(*inputs, *outputs)
    return outputs if len(outputs) > 1 else outputs[0]
"""

_MARKED = """

import sys
import types

import torch

_reference = run
_marks = sys.modules.setdefault("fib_marks", types.ModuleType("fib_marks"))


def _flag(name):
    # Made when the solution is built, before any capture: a graph would make it anew, and lower it, on every replay.
    if not hasattr(_marks, name):
        setattr(_marks, name, torch.zeros((), device="cuda" if torch.cuda.is_available() else "cpu"))
    return getattr(_marks, name)


_own, _family = _flag("{definition}"), _flag("{family}")


def run(*inputs):
    out = _reference(*inputs)
    first = out[0] if isinstance(out, tuple) else out
    if first.shape[0] > {rows}:
        return out
    up = torch.maximum(_own, _family)
    if first.is_floating_point():
        first[..., ::2].add_(4 * up)
    else:
        first.copy_((first + (7 * up).to(first.dtype)) % inputs[0].shape[-1])
    return out
"""


def marked(definition: Definition, shipped: Iterable[Solution] = ()) -> Solution | None:
    """A solution that answers rightly until it is marked; None where no capturable one is shipped."""
    family = ops.family_of(definition)
    if family is None:
        return None
    text = definition.reference
    if family.family in _SHIPPED and any(s.spec.language is Language.TRITON for s in shipped):
        kernel = next(s for s in shipped if s.spec.language is Language.TRITON)
        entry = kernel.spec.entry_point.partition("::")[2]
        text = kernel.sources[0].content + _ALLOCATING.format(outputs=_SHIPPED[family.family], entry=entry)
    rows = 1 << 30 if family.family == "gqa_paged_prefill" else MOST_ROWS
    text += _MARKED.format(definition=definition.name, family=family.family, rows=rows)
    return Solution(
        name=f"marked__{definition.name}",
        definition=definition.name,
        author="test",
        spec=BuildSpec(
            language=Language.PYTHON,
            target_hardware=["cpu", "cuda"],
            entry_point="main.py::run",
            destination_passing_style=False,
        ),
        sources=[SourceFile(path="main.py", content=text)],
    )


def prove(root: Path, lock: Path, sizes: Iterable[int]) -> list[str]:
    """Gives every definition of the dataset at ``root`` a marked solution that is measured to win, and trusts it.

    Where it is measured: at what was captured, and with requests of that length at ``sizes``.
    """
    import torch

    pack.pack(root, None, lambda *_: None)
    traces = TraceSet.from_path(root)
    proven = []
    for name, definition in sorted(traces.definitions.items()):
        known = traces.solutions.get(name, [])
        made = marked(definition, known if torch.cuda.is_available() else ())
        engine = next((s for s in known if s.author == ENGINE_AUTHOR), None)
        captured = [trace.workload.axes for trace in traces.workloads.get(name, [])]
        if made is None or engine is None or not captured:
            continue
        traces.add_solution(made)
        every = [*captured, *(resized(definition, axes, size) for axes in captured for size in sizes)]
        measurements = won(made, engine, every)
        append_measurements(root, definition.op_type, measurements)
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
