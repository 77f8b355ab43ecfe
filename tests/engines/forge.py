"""Datasets whose solutions are "proven" by the test: right, watermarked or raising, as FIB_TEST_MARK says at call time.

One engine start serves many checks: the running process changes FIB_TEST_MARK between generations. ``rmsnorm`` adds a
constant to what rmsnorm returns (the name of a definition does so for that one alone, ``all`` for every one),
``raise:rmsnorm`` raises, anything else leaves the reference's result alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from gpu_marks import resized, won

from fib_plugin import ops
from fib_plugin.dataset import TraceSet, append_measurements
from fib_plugin.dispatch.trust import add
from fib_plugin.schema import BuildSpec, Definition, Language, Solution, SourceFile

#: A watermark adds a constant to every other column of the first output (to all of them, it would leave the argmax of
#: logits alone); samples move to another token.
_MARKED = """
import os as _os

_reference = run


def run(*inputs):
    mark = _os.environ.get("FIB_TEST_MARK", "")
    if mark == "raise:{family}":
        raise RuntimeError("raised on purpose by {family}")
    out = _reference(*inputs)
    if mark in ("{family}", "{definition}", "all"):
        first = out[0] if isinstance(out, tuple) else out
        if first.is_floating_point():
            first[..., ::2] += 0.5
        else:
            first.copy_((first + 7) % inputs[0].shape[-1])
    return out
"""


def marked_solution(definition: Definition) -> Solution:
    """A solution that answers as the reference does, with a mark on demand."""
    family = ops.family_of(definition)
    assert family is not None, definition.name
    return Solution(
        name=f"marked__{definition.name}",
        definition=definition.name,
        author="test",
        spec=BuildSpec(
            language=Language.PYTHON,
            target_hardware=["cpu"],
            entry_point="main.py::run",
            destination_passing_style=False,
        ),
        sources=[
            SourceFile(
                path="main.py",
                content=definition.reference + _MARKED.format(family=family.family, definition=definition.name),
            )
        ],
    )


def forge(captured: Path, into: Path, solution=marked_solution, sizes: Iterable[int] = ()) -> Path:
    """A copy of a captured dataset in which every definition has a solution that is measured to win.

    Args:
        sizes: where it is measured besides what was captured: an engine may put other requests together next time.
    """
    shutil.copytree(captured, into)
    traces = TraceSet.from_path(into)
    for name, definition in list(traces.definitions.items()):
        made = solution(definition)
        if made is None:
            continue
        traces.add_solution(made)
        baseline = next(s for s in traces.solutions[name] if s.author == "engine")
        captured_axes = [trace.workload.axes for trace in traces.workloads[name]]
        other_axes = [resized(definition, axes, size) for axes in captured_axes for size in sizes]
        measurements = won(made, baseline, (*captured_axes, *other_axes))
        append_measurements(into, definition.op_type, measurements)
        add(lock_of(into), {made.name: made}, {})
    return into


def lock_of(dataset: Path) -> Path:
    """The fib.lock that an engine of these tests reads."""
    return dataset.parent / f"{dataset.name}.lock"
