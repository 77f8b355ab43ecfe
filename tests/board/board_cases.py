"""A small dataset whose scores can be worked out by hand: two definitions, three authors, four workloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fib_plugin.dataset import Measurement, TraceSet
from fib_plugin.schema import (
    AxisConst,
    AxisVar,
    BuildSpec,
    Correctness,
    Definition,
    Environment,
    Evaluation,
    EvaluationStatus,
    Performance,
    RandomInput,
    Solution,
    SourceFile,
    TensorSpec,
    Trace,
    Workload,
    content_hash,
)

HERE = Environment(hardware="GPU A", libs={"torch": "2.13.0"})
ELSEWHERE = Environment(hardware="GPU B", libs={"torch": "2.13.0"})


def definition(name: str) -> Definition:
    return Definition(
        name=name,
        op_type="copy",
        axes={"n": AxisVar(), "d": AxisConst(value=4)},
        inputs={"x": TensorSpec(shape=["n", "d"], dtype="float32")},
        outputs={"y": TensorSpec(shape=["n", "d"], dtype="float32")},
        reference="def run(x):\n    return x\n",
    )


def solution(name: str, of: str, author: str, source: str = "def run(x): return x") -> Solution:
    spec = BuildSpec(language="python", target_hardware=["cpu"], entry_point="main.py::run")
    return Solution(
        name=name, definition=of, author=author, spec=spec, sources=[SourceFile(path="main.py", content=source)]
    )


def workload(uuid: str, n: int = 1) -> Workload:
    return Workload(axes={"n": n}, inputs={"x": RandomInput()}, uuid=uuid)


def dataset(root: Path | None = None) -> TraceSet:
    """copy_a with the workloads a1, a2, a3 and copy_b with b1; solutions by engine, ann and bob."""
    traces = TraceSet(root)
    for name, uuids in (("copy_a", ("a1", "a2", "a3")), ("copy_b", ("b1",))):
        traces.add_definition(definition(name))
        traces.add_workloads([Trace(definition=name, workload=workload(uuid)) for uuid in uuids])
        for author in ("engine", "ann", "bob"):
            traces.add_solution(solution(f"{author}_{name}", name, author))
    return traces


def measured(traces: TraceSet, name: str, uuid: str, ratio: float | None, /, **changes: Any) -> Measurement:
    """The solution `name` on a workload at `ratio` times the displaced op's speed."""
    found = traces.get_solution(name)
    assert found is not None
    engine = traces.get_solution(f"engine_{found.definition}")
    values: dict[str, Any] = {
        "run": "r1",
        "definition": found.definition,
        "axes": {"n": 1},
        "workload": uuid,
        "solution": name,
        "solution_hash": content_hash(found),
        "baseline": engine.name if engine else "",
        "baseline_hash": content_hash(engine) if engine else "",
        "status": "PASSED",
        "solution_ms": None if not ratio else 1.0 / ratio,
        "baseline_ms": 1.0,
        "ratio": ratio,
        "ratio_low": ratio,
        "hardware": HERE.hardware,
        "libs": dict(HERE.libs),
        "timestamp": "2026-01-01T00:00:00+00:00",
    }
    return Measurement(**{**values, **changes})


def evaluated(name: str, of: str, uuid: str, speedup: float | None, **changes: Any) -> Trace:
    """A trace at `speedup` times the reference's speed; a failed one for None."""
    status = EvaluationStatus.PASSED if speedup is not None else EvaluationStatus.RUNTIME_ERROR
    values: dict[str, Any] = {
        "status": status,
        "environment": HERE,
        "timestamp": "2026-01-01T00:00:00+00:00",
        "correctness": Correctness() if speedup is not None else None,
        "performance": None
        if speedup is None
        else Performance(latency_ms=1.0, reference_latency_ms=speedup, speedup_factor=speedup),
    }
    return Trace(definition=of, workload=workload(uuid), solution=name, evaluation=Evaluation(**{**values, **changes}))


def engine_everywhere(traces: TraceSet) -> list[Measurement]:
    """The displaced ops timed on every workload, which makes all four of them tasks."""
    return [
        measured(traces, f"engine_{name}", line.workload.uuid, 1.0)
        for name, group in traces.workloads.items()
        for line in group
    ]
