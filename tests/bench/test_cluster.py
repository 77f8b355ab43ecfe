"""Benchmarks on a Ray cluster: two nodes on this host, each a device."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.bench_cases import HIDDEN, NORM, RIGHT, dataset, solution, workload
from safetensors.torch import save_file

from fib_plugin import ops
from fib_plugin.bench import BenchError, Progress, run_bench
from fib_plugin.bench.cluster import _Bench
from fib_plugin.bench.task import LeftOut, Task
from fib_plugin.dataset import TraceSet, load_measurements
from fib_plugin.schema import SafetensorsInput

ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'fib-plugin[ray]'")

SHORT = "def run(x, weight):\n    return x[:, :1]\n"
SLOW = RIGHT.replace("import torch", "import time\n\nimport torch").replace(
    "    return", "    time.sleep(1)\n    return"
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    memory = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**memory, "include_dashboard": False})
    try:
        cluster.add_node(**memory)
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_the_devices_of_all_nodes_do_every_task_once_and_saved_tensors_travel_with_it(
    tmp_path: Path, address: str
) -> None:
    loads = [workload(f"w{rows}", batch_size=rows) for rows in (1, 2, 3, 4)]
    for one in loads:
        rows = one.workload.axes["batch_size"]
        path = f"blob/workloads/rmsnorm/{NORM.name}/{one.workload.uuid}.safetensors"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        save_file({"x": torch.full((rows, HIDDEN), 2.0)}, tmp_path / path)
        one.workload.inputs["hidden_states"] = SafetensorsInput(path=path, tensor_key="x")
    # Right for the saved values only.
    picky = "import torch\n\n\ndef run(x, weight):\n    return weight.expand(x.shape[0], -1).clone()\n"
    traces = dataset(tmp_path, solution("picky", picky), solution("short", SHORT), workloads=tuple(loads))
    told: list[Progress] = []
    found = run_bench(traces, progress=told.append, threads=1, ray=address)
    assert [one.problem for one in told if one.problem] == []
    assert told[0].doing == "waiting for 2 devices of the Ray cluster"
    assert sorted((one.solution.name, one.workload.uuid, one.status.value) for one in found) == [
        *(("picky", f"w{rows}", "PASSED") for rows in (1, 2, 3, 4)),
        *(("short", f"w{rows}", "INCORRECT_SHAPE") for rows in (1, 2, 3, 4)),
    ]
    assert len(load_measurements(tmp_path)) == 8
    assert len(TraceSet.from_path(tmp_path).traces[NORM.name]) == 8
    assert (told[-1].done, told[-1].total) == (8, 8)


def test_a_worker_that_dies_costs_its_task_only_and_resume_does_that_one(tmp_path: Path, address: str) -> None:
    loads = tuple(workload(f"w{rows}", batch_size=rows) for rows in (1, 2, 3, 4))
    traces = dataset(tmp_path, solution("slow", SLOW), workloads=loads)
    told: list[Progress] = []
    killed: list[int] = []

    def note(progress: Progress) -> None:
        told.append(progress)
        if progress.doing.endswith(": slow") and not killed:
            killed.extend(_workers()[:1])
            os.kill(killed[0], signal.SIGKILL)

    found = run_bench(traces, progress=note, threads=1, ray=address)
    (problem,) = [one.problem for one in told if one.problem]
    assert "was lost" in problem
    assert "--resume" in problem
    assert len(found) == 3
    assert (told[-1].done, told[-1].total) == (4, 4)
    assert {m.workload for m in load_measurements(tmp_path)} == {one.workload.uuid for one in found}

    missing = {"w1", "w2", "w3", "w4"} - {one.workload.uuid for one in found}
    again = run_bench(TraceSet.from_path(tmp_path), resume=True, threads=1, ray=address)
    assert {one.workload.uuid for one in again} == missing


def _workers() -> list[int]:
    """Processes in which a task of ours is being done."""
    names = {int(file.parent.name): file for file in Path("/proc").glob("[0-9]*/cmdline")}
    return [pid for pid, file in sorted(names.items()) if _text(file).startswith("ray::_Bench.work")]


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_a_worker_begins_nothing_when_the_budget_is_spent(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIB_CACHE_PATH", str(cache))
    one = solution("a", RIGHT)
    task = Task(NORM, workload("w1", batch_size=1).workload, [one, one], [], ops.evaluation_config(NORM, None))
    assert list(_Bench("cpu", torch.get_num_threads(), 60.0, "run").work(task, {}, -1.0)) == [LeftOut(2, "")]


def test_a_device_that_no_node_has_is_said(tmp_path: Path, address: str) -> None:
    with pytest.raises(BenchError, match="no cuda device"):
        run_bench(dataset(tmp_path, solution("a", RIGHT)), ray=address, devices=["cuda"])


def test_a_cluster_that_cannot_be_reached_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**asked: Any) -> None:
        raise ConnectionError(f"nothing at {asked['address']}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(BenchError, match=r"nothing at auto.*ray start --head"):
        run_bench(dataset(tmp_path, solution("a", RIGHT)), ray="auto")


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BenchError, match=r"fib-plugin\[ray\]"):
        run_bench(dataset(tmp_path, solution("a", RIGHT)), ray="auto")
