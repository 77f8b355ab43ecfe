"""Datasets for tests in which a solution is "proven": measured, as the test says, against the op it would displace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fib_plugin import ops
from fib_plugin.dataset import Measurement, TraceSet, append_measurements, current_environment
from fib_plugin.dispatch.trust import add
from fib_plugin.schema import BuildSpec, Definition, Language, Solution, SourceFile, content_hash

#: What ``MARKED`` adds to the first output, so that a test sees whose result it got.
MARK = 100.0

MARKED = f"""
_reference = run


def run(*inputs):
    out = _reference(*inputs)
    first = out[0] if isinstance(out, tuple) else out
    first += {MARK}
    return out
"""

RAISING = "\n\ndef run(*inputs):\n    raise RuntimeError('raised on purpose')\n"


def silu(d: int = 4, dtype: str = "float32") -> Definition:
    """The smallest family: one input, one output."""
    return ops.ALL["silu_and_mul"].definition(d=d, dtype=dtype)


def solution(definition: Definition, name: str = "fast", after: str = MARKED, dps: bool = False) -> Solution:
    """The reference, and ``after`` it."""
    return Solution(
        name=name,
        definition=definition.name,
        author="test",
        spec=BuildSpec(
            language=Language.PYTHON,
            target_hardware=["cpu"],
            entry_point="main.py::run",
            destination_passing_style=dps,
        ),
        sources=[SourceFile(path="main.py", content=definition.reference + after)],
    )


def measurement(made: Solution, axes: dict[str, int], **changed: Any) -> Measurement:
    """``made`` is 1.9 times as fast as the engine's op, measured here and now, unless the test says otherwise."""
    here = current_environment()
    fields: dict[str, Any] = {
        "run": "run",
        "definition": made.definition,
        "axes": axes,
        "workload": "-".join(f"{axis}{size}" for axis, size in axes.items()),
        "solution": made.name,
        "solution_hash": content_hash(made),
        "baseline": f"engine__{made.definition}",
        "baseline_hash": "of no interest",
        "status": "PASSED",
        "solution_ms": 1.0,
        "baseline_ms": 2.0,
        "ratio": 2.0,
        "ratio_low": 1.9,
        "hardware": here.hardware,
        "libs": here.libs,
        "timestamp": "2026-01-01T00:00:00+00:00",
    }
    return Measurement(**{**fields, **changed})


def store(root: Path, definition: Definition, *solutions: Solution) -> TraceSet:
    """A dataset with a definition and solutions that nobody has measured."""
    traces = TraceSet.from_path(root)
    traces.add_definition(definition)
    for made in solutions:
        traces.add_solution(made)
    return traces


def trust(root: Path, *solutions: Solution) -> None:
    """Writes the solutions into the fib.lock of the test."""
    lock = Path(os.environ.get("FIB_LOCK_PATH") or root.parent / "fib.lock")
    add(lock, {made.name: made for made in solutions}, {})


def prove(
    root: Path, definition: Definition, made: Solution | None = None, sizes: tuple[int, ...] = (4,), **changed: Any
) -> Solution:
    """Stores a solution, trusts it, and stores its measurements at ``sizes`` of the first key axis."""
    made = solution(definition) if made is None else made
    store(root, definition, made)
    family = ops.family_of(definition)
    assert family is not None
    axes = [{**dict.fromkeys(definition.var_axes, 1), family.key_axes[0]: size} for size in sizes]
    append_measurements(root, definition.op_type, [measurement(made, each, **changed) for each in axes])
    trust(root, made)
    return made
