"""What flashinfer-bench itself does with a dataset; run by its own interpreter: `their_side.py check|write FOLDER`.

Version 0.1.2 has no `validate` command. `check` does what its tools do before they launch a kernel: the loader with its
model checks, input shapes from axes, saved tensors with their shape and dtype checks, generated inputs, the built
reference and its outputs. All on the CPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from flashinfer_bench import (  # type: ignore[import-not-found]
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
    SafetensorsInput,
    Solution,
    SourceFile,
    SupportedLanguages,
    TensorSpec,
    Trace,
    TraceSet,
    Workload,
)
from flashinfer_bench.bench.evaluators.utils import normalize_result  # type: ignore[import-not-found]
from flashinfer_bench.bench.utils import gen_inputs, load_safetensors  # type: ignore[import-not-found]
from flashinfer_bench.compile import BuilderRegistry  # type: ignore[import-not-found]
from flashinfer_bench.data import save_json_file  # type: ignore[import-not-found]


def check(root: Path) -> dict[str, Any]:
    traces = TraceSet.from_path(str(root))
    ran = {}
    for name, workloads in traces.workloads.items():
        definition = traces.definitions[name]
        reference = BuilderRegistry.get_instance().build_reference(definition)
        for trace in workloads:
            ran[name] = ran.get(name, 0) + run(definition, reference, trace.workload, root)
    for solutions in traces.solutions.values():
        for solution in solutions:
            BuilderRegistry.get_instance().build(traces.definitions[solution.definition], solution)
    return {
        "definitions": len(traces.definitions),
        "solutions": sum(map(len, traces.solutions.values())),
        "workloads": sum(map(len, traces.workloads.values())),
        "traces": sum(map(len, traces.traces.values())),
        "ran": ran,
    }


def run(definition: Any, reference: Any, workload: Any, root: Path) -> int:
    """Runs the reference on a workload; its outputs must be of the shapes and dtypes that the definition says."""
    assert set(workload.inputs) == set(definition.inputs), workload
    saved = load_safetensors(definition, workload, root)
    inputs = gen_inputs(definition, workload, device="cpu", safe_tensors=saved)
    assert definition.get_axes_values_from_inputs(inputs) == workload.axes
    outputs = normalize_result(definition, reference(*inputs), "cpu")
    shapes = [tuple(shape) for shape in definition.get_output_shapes(workload.axes)]
    assert [tuple(output.shape) for output in outputs] == shapes, definition.name
    assert [output.dtype for output in outputs] == definition.torch_output_dtypes, definition.name
    return 1


def write(root: Path) -> dict[str, Any]:
    """A dataset of one definition: 60 workloads with blobs, a solution and an evaluation of it."""
    definition = Definition(
        name="gather_d4",
        op_type="gather",
        axes={"n": AxisVar(), "m": AxisVar(), "d": AxisConst(value=4)},
        inputs={"x": TensorSpec(shape=["n", "d"], dtype="float32"), "index": TensorSpec(shape=["m"], dtype="int32")},
        outputs={"y": TensorSpec(shape=["m", "d"], dtype="float32")},
        reference="def run(x, index):\n    return x[index.long()]\n",
        constraints=["n > 0"],
    )
    solution = Solution(
        name="plain",
        definition=definition.name,
        author="someone",
        spec=BuildSpec(
            language=SupportedLanguages.PYTHON,
            target_hardware=["cpu"],
            entry_point="main.py::run",
            destination_passing_style=False,
        ),
        sources=[SourceFile(path="main.py", content=definition.reference)],
    )
    save_json_file(definition, root / "definitions/gather/gather_d4.json")
    save_json_file(solution, root / "solutions/someone/gather/gather_d4/plain.json")
    traces = TraceSet.from_path(str(root))
    workloads = []
    for m in range(1, 61):
        path = traces.add_workload_blob_tensor("gather_d4", f"u{m}", {"index": torch.zeros(m, dtype=torch.int32)})
        inputs = {"x": RandomInput(), "index": SafetensorsInput(path=path, tensor_key="index")}
        workloads.append(Workload(axes={"n": 8, "m": m}, inputs=inputs, uuid=f"u{m}"))
    traces.add_workload_traces([Trace(definition="gather_d4", workload=workload) for workload in workloads])
    evaluation = Evaluation(
        status=EvaluationStatus.PASSED,
        environment=Environment(hardware="NVIDIA_H100", libs={"torch": "2.9.0"}),
        timestamp="2026-01-01T00:00:00",
        correctness=Correctness(max_relative_error=float("inf"), max_absolute_error=0.0),
        performance=Performance(latency_ms=1.0, reference_latency_ms=2.0, speedup_factor=2.0),
    )
    traces.add_traces([Trace(definition="gather_d4", workload=workloads[0], solution="plain", evaluation=evaluation)])
    return {"workloads": len(workloads)}


if __name__ == "__main__":
    print(json.dumps({"check": check, "write": write}[sys.argv[1]](Path(sys.argv[2]))))
