"""Profile: a profiler's report of solutions that passed: Nsight Compute's on a GPU, torch's table of ops on a CPU.

A solution runs under a profiler without the sandbox of a benchmark, so only what passed is profiled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fib_plugin.bench.child import Place
from fib_plugin.bench.results import BenchResult
from fib_plugin.schema import EvaluationStatus, Language

_SECONDS = 300.0
_NSIGHT = ("/usr/local/cuda/bin", "/opt/nvidia/nsight-compute")


@dataclass(frozen=True, slots=True)
class Profile:
    """A report, or why there is none."""

    solution: str
    definition: str
    axes: dict[str, int]
    report: Path | None
    said: str


def profile(results: Iterable[BenchResult], root: Path | None, place: Place, folder: Path) -> Iterator[Profile]:
    """Profile each solution that passed, on the workload on which it took longest; reports go to ``folder``.

    Args:
        results: of one run; where several names share a content, one is profiled.
        root: of the dataset that they were measured on.
        place: where they are run.
    """
    for result in _slowest(results):
        report, said = _one(result, root, place, folder)
        axes = dict(result.workload.axes)
        yield Profile(result.solution.name, result.definition.name, axes, report, said)


def find_ncu() -> str | None:
    """Nsight Compute's command line, in PATH or where CUDA puts it."""
    search = [os.environ.get("PATH", ""), *_NSIGHT]
    search += [str(Path(os.environ[name]) / "bin") for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    return shutil.which("ncu", path=os.pathsep.join(search))


def _slowest(results: Iterable[BenchResult]) -> list[BenchResult]:
    chosen: dict[str, BenchResult] = {}
    for result in results:
        if result.status is not EvaluationStatus.PASSED:
            continue
        known = chosen.get(result.measurement.solution_hash)
        if known is None or (result.measurement.solution_ms or 0.0) > (known.measurement.solution_ms or 0.0):
            chosen[result.measurement.solution_hash] = result
    return list(chosen.values())


def _one(result: BenchResult, root: Path | None, place: Place, folder: Path) -> tuple[Path | None, str]:
    stem = folder / re.sub(r"[^\w.-]+", "_", f"{result.solution.name}-{result.workload.uuid}")
    if place.device.startswith("cuda"):
        ncu = find_ncu()
        if ncu is None:
            return None, "no ncu report: ncu is not installed (it comes with the CUDA toolkit, as Nsight Compute)"
        folder.mkdir(parents=True, exist_ok=True)
        return _ncu(ncu, _order(result, root, place, table=False), stem, place.device)
    if result.solution.spec.language is not Language.PYTHON:
        said = (
            "no ncu report: this device is a CPU, and ncu profiles NVIDIA GPUs; torch's profiler would show a "
            f"{result.solution.spec.language.value} kernel as one call (for its instructions: perf record)"
        )
        return None, said
    folder.mkdir(parents=True, exist_ok=True)
    return _torch(_order(result, root, place, table=True), stem.with_name(stem.name + ".txt"))


def _order(result: BenchResult, root: Path | None, place: Place, table: bool) -> dict[str, Any]:
    records = {"definition": result.definition, "solution": result.solution, "workload": result.workload}
    return {
        **{name: record.model_dump(mode="json", exclude_unset=True) for name, record in records.items()},
        "root": None if root is None else str(root),
        "device": "cuda" if place.device.startswith("cuda") else place.device,
        "threads": place.threads,
        "cache": str(place.cache),
        "table": table,
    }


def _ncu(ncu: str, order: dict[str, Any], stem: Path, device: str) -> tuple[Path | None, str]:
    report = stem.with_name(stem.name + ".ncu-rep")
    command = [ncu, "--set", "full", "--profile-from-start", "off", "--target-processes", "all", "-f", "-o", str(stem)]
    environment = dict(os.environ)
    _, _, index = device.partition(":")
    if index:
        visible = [one for one in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
        environment["CUDA_VISIBLE_DEVICES"] = visible[int(index)] if int(index) < len(visible) else index
    done = _run([*command, sys.executable, "-m", "fib_plugin.bench.profiled"], order, environment)
    if isinstance(done, str):
        return None, done
    if done.returncode or not report.exists():
        said = done.stdout + done.stderr
        if "ERR_NVGPUCTRPERM" in said:
            return None, (
                "no ncu report: this user may not read the GPU's counters (run as root, or load the nvidia module with "
                "NVreg_RestrictProfilingToAdminUsers=0)"
            )
        return None, f"no ncu report: ncu ended with {done.returncode}: {_last(said)}"
    return report, "ncu report (open it with ncu-ui, or ncu --import)"


def _torch(order: dict[str, Any], file: Path) -> tuple[Path | None, str]:
    done = _run([sys.executable, "-m", "fib_plugin.bench.profiled"], order, dict(os.environ))
    if isinstance(done, str):
        return None, done
    if done.returncode:
        return None, f"no profile: the process ended with {done.returncode}: {_last(done.stderr)}"
    file.write_text(done.stdout)
    return file, "no ncu report, since this device is a CPU; torch's profiler shows the ops and their times"


def _run(
    command: list[str], order: dict[str, Any], environment: dict[str, str]
) -> subprocess.CompletedProcess[str] | str:
    environment |= {"FIB_DISABLE": "1"}
    try:
        return subprocess.run(
            command, input=json.dumps(order), env=environment, capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no profile: it took more than {_SECONDS:g} s"
    except OSError as error:
        return f"no profile: {command[0]} cannot be started: {error}"


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
