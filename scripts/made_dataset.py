"""Makes a dataset of any size for benchmarks: plain FlashInfer Trace files, and measurements to match.

Definitions come from the op families' own templates, so that references, axes and names are those of real datasets;
solutions are sources that are stored and read, never run.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fib_plugin import ops
from fib_plugin.dataset import Measurement, current_environment
from fib_plugin.schema import BuildSpec, Definition, Environment, Language, Solution, SourceFile, content_hash
from fib_plugin.schema.record import dump_pretty

_DTYPES = ("bfloat16", "float16", "float32")
_AUTHORS = ("fib", "fib", "fib", "someone", "agent")
_TIME = "2026-01-01T00:00:00+00:00"
_LINE = msgspec.json.Encoder()

#: Stands for a kernel's text: about as long as the sources that are shipped.
_BODY = "\n".join(f"    acc_{at} = load(a_ptr + offs_{at}, mask=rows < M, other=0.0) * scale_{at}" for at in range(40))


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each is made; `solutions` and `traces` are totals."""

    definitions: int = 1_000
    solutions: int = 10_000
    traces: int = 100_000


def make(root: Path, size: Size) -> Size:
    """Fills the folder ``root``; what it holds then, since every definition gets the same share.

    One of a definition's solutions is the engine's own op, and each is traced and measured on each of its workloads.
    """
    environment = current_environment()
    each = max(2, size.solutions // size.definitions)
    workloads = max(1, size.traces // (each * size.definitions))
    for definition in itertools.islice(definitions(), size.definitions):
        _definition(root, definition, each, workloads, environment)
    return Size(size.definitions, each * size.definitions, workloads * each * size.definitions)


def definitions() -> Iterator[Definition]:
    """Different definitions of all families, without end."""
    for step in itertools.count(1):
        wide, narrow, dtype = 64 * step, 8 * step, _DTYPES[step % 3]
        yield ops.ALL["gemm"].definition(n=wide, k=4096, dtype=dtype)
        yield ops.ALL["gemm"].definition(n=4096, k=wide + 1, dtype=dtype)
        yield ops.ALL["rmsnorm"].definition(hidden_size=wide, eps=1e-5, dtype=dtype)
        yield ops.ALL["fused_add_rmsnorm"].definition(hidden_size=wide, eps=1e-6, dtype=dtype)
        yield ops.ALL["silu_and_mul"].definition(d=wide, dtype=dtype)
        yield ops.ALL["gqa_paged_decode"].definition(num_qo_heads=narrow, num_kv_heads=8, head_dim=128, dtype=dtype)
        yield ops.ALL["gqa_paged_prefill"].definition(num_qo_heads=narrow, num_kv_heads=8, head_dim=128, dtype=dtype)
        yield ops.ALL["moe"].definition(
            topk=2, num_experts=8, hidden_size=wide, intermediate_size=2 * wide, dtype=dtype
        )
        yield ops.ALL["top_k_sampling"].definition(vocab_size=32_000 + step)
        yield ops.ALL["top_p_sampling"].definition(vocab_size=32_000 + step)


def _definition(root: Path, definition: Definition, each: int, workloads: int, environment: Environment) -> None:
    op_type, name = definition.op_type, definition.name
    _write(root / "definitions" / op_type / f"{name}.json", dump_pretty(definition))
    made = [_solution(definition, number) for number in range(each)]
    for solution in made:
        folder = root / "solutions" / solution.author / op_type / name
        _write(folder / f"{solution.name}.json", dump_pretty(solution))
    loads = [_workload(definition, number) for number in range(workloads)]
    _write_lines(root / "workloads" / op_type / f"{name}.jsonl", [{"definition": name, "workload": w} for w in loads])
    hashes = [content_hash(solution) for solution in made]
    ours = []
    traces: dict[str, list[object]] = {}
    for number, solution in enumerate(made):
        for at, workload in enumerate(loads):
            ratio = 1.0 if number == 0 else _ratio(solution.name, at)
            traces.setdefault(solution.author, []).append(
                {
                    "definition": name,
                    "workload": workload,
                    "solution": solution.name,
                    "evaluation": _evaluation(ratio, environment),
                }
            )
            ours.append(
                _measurement(definition, workload, solution, hashes[number], made[0], hashes[0], ratio, environment)
            )
    for author, lines in traces.items():
        _write_lines(root / "traces" / author / op_type / f"{name}.jsonl", lines)
    _write_lines(root / "fib" / "measurements" / op_type / f"{name}.jsonl", ours)


def _solution(definition: Definition, number: int) -> Solution:
    author = "engine" if number == 0 else _AUTHORS[number % len(_AUTHORS)]
    source = f"{definition.reference}\n\nVARIANT = {number}\n\n\ndef kernel(a_ptr, M):\n{_BODY}\n    return acc_0\n"
    return Solution(
        name=f"{author}_{number}__{definition.name}",
        definition=definition.name,
        author=author,
        description="Made for a benchmark of reading; nobody runs it.",
        spec=BuildSpec(
            language=Language.PYTHON,
            target_hardware=["cpu", "cuda"],
            entry_point="main.py::run",
            dependencies=["torch"],
            destination_passing_style=False,
        ),
        sources=[SourceFile(path="main.py", content=source)],
    )


def _workload(definition: Definition, number: int) -> dict[str, object]:
    family = ops.family_of(definition)
    assert family is not None
    axes = {**dict.fromkeys(definition.var_axes, 128), family.key_axes[0]: 2**number}
    inputs = {
        key: {"type": "random"} if spec.shape is not None else {"type": "scalar", "value": 0.5}
        for key, spec in definition.inputs.items()
    }
    digest = hashlib.sha256(f"{definition.name}/{number}".encode()).hexdigest()
    return {"axes": axes, "inputs": inputs, "uuid": f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}"}


def _ratio(name: str, at: int) -> float:
    """Between 0.7 and 1.5, the same at every run; a solution's ratios lie close together."""
    digest = hashlib.sha256(name.encode()).digest()
    return round(0.7 + digest[0] / 320 + digest[1 + at % 31] / 5000, 4)


def _evaluation(ratio: float, environment: Environment) -> dict[str, object]:
    return {
        "status": "PASSED",
        "environment": {"hardware": environment.hardware, "libs": environment.libs},
        "timestamp": _TIME,
        "log": "",
        "correctness": {"max_relative_error": 1.2e-4, "max_absolute_error": 3.1e-5},
        "performance": {"latency_ms": 0.04 / ratio, "reference_latency_ms": 0.08, "speedup_factor": 2 * ratio},
    }


def _measurement(
    definition: Definition,
    workload: dict[str, object],
    solution: Solution,
    digest: str,
    baseline: Solution,
    baseline_hash: str,
    ratio: float,
    environment: Environment,
) -> Measurement:
    return Measurement(
        run="20260101-000000-1",
        definition=definition.name,
        axes=workload["axes"],  # type: ignore[arg-type]
        workload=str(workload["uuid"]),
        solution=solution.name,
        solution_hash=digest,
        baseline=baseline.name,
        baseline_hash=baseline_hash,
        status="PASSED",
        solution_ms=0.04 / ratio,
        baseline_ms=0.04,
        ratio=ratio,
        ratio_low=ratio - 0.01,
        hardware=environment.hardware,
        libs=environment.libs,
        timestamp=_TIME,
    )


def _write_lines(file: Path, records: Sequence[object]) -> None:
    _write(file, b"".join(_LINE.encode(record) + b"\n" for record in records))


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
