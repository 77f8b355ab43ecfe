"""Small datasets to benchmark, and solutions that are right or wrong in one way each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fib_plugin import ops
from fib_plugin.dataset import TraceSet
from fib_plugin.schema import BuildSpec, Definition, RandomInput, Solution, SourceFile, Trace, Workload

HIDDEN = 64
NORM = ops.ALL["rmsnorm"].definition(hidden_size=HIDDEN, eps=1e-5, dtype="float32")
ADD_NORM = ops.ALL["fused_add_rmsnorm"].definition(hidden_size=HIDDEN, eps=1e-5, dtype="float32")
SAMPLER = ops.ALL["top_k_top_p_sampling"].definition(vocab_size=256)

RIGHT = """
import torch


def run(x, weight):
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-5)
"""

RIGHT_INTO = """
import torch


def run(x, weight, y):
    y.copy_(torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-5))
"""


def solution(
    name: str, source: str, definition: Definition = NORM, author: str = "tests", into: bool = False, **spec: Any
) -> Solution:
    """A Python solution, unless ``spec`` says otherwise."""
    entry = spec.pop("entry_point", "kernel.py::run")
    return Solution(
        name=name,
        definition=definition.name,
        author=author,
        spec=BuildSpec(
            language=spec.pop("language", "python"),
            target_hardware=["cpu"],
            entry_point=entry,
            destination_passing_style=into,
            **spec,
        ),
        sources=[SourceFile(path=entry.split("::")[0], content=source)],
    )


def workload(uuid: str, definition: Definition = NORM, **axes: int) -> Trace:
    """A workload of random inputs."""
    inputs = {name: RandomInput() for name in definition.inputs}
    return Trace(definition=definition.name, workload=Workload(axes=axes, inputs=inputs, uuid=uuid))


def dataset(
    root: Path, *solutions: Solution, workloads: tuple[Trace, ...] = (), definition: Definition = NORM
) -> TraceSet:
    """A dataset of one definition."""
    traces = TraceSet(root)
    traces.add_definition(definition)
    for one in solutions:
        traces.add_solution(one)
    traces.add_workloads(workloads or (workload("w1", definition, batch_size=4),))
    return traces
