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

#: Right for the saved values only, which are all the same.
PICKY = "import torch\n\n\ndef run(x, weight):\n    return weight.expand(x.shape[0], -1).clone()\n"
SHORT = "def run(x, weight):\n    return x[:, :1]\n"
SLOW = "import time\n\n\ndef run(x, weight):\n    time.sleep(2)\n    raise ValueError('slow')\n"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    memory = {"num_cpus": 1, "object_store_memory": 80 << 20}
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={**memory, "include_dashboard": False})
    try:
        cluster.add_node(**memory)
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()
        patch.undo()


@pytest.fixture
def traces(tmp_path: Path) -> TraceSet:
    """Four workloads with saved tensors."""
    loads = [workload(f"w{rows}", batch_size=rows) for rows in (1, 2, 3, 4)]
    for one in loads:
        path = f"blob/workloads/rmsnorm/{NORM.name}/{one.workload.uuid}.safetensors"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        save_file({"x": torch.full((one.workload.axes["batch_size"], HIDDEN), 2.0)}, tmp_path / path)
        one.workload.inputs["hidden_states"] = SafetensorsInput(path=path, tensor_key="x")
    solutions = (solution("picky", PICKY), solution("short", SHORT), solution("slow", SLOW))
    return dataset(tmp_path, *solutions, workloads=tuple(loads))


def test_all_nodes_do_every_task_once_and_a_worker_that_dies_costs_only_what_it_was_at(
    traces: TraceSet, tmp_path: Path, address: str
) -> None:
    told: list[Progress] = []
    killed: list[int] = []

    def note(progress: Progress) -> None:
        told.append(progress)
        if progress.doing.endswith(": slow") and not killed:
            killed.extend(_workers()[:1])
            os.kill(killed[0], signal.SIGKILL)

    found = run_bench(traces, progress=note, threads=1, ray=address)
    assert told[0].doing == "waiting for 2 devices of the Ray cluster"
    (problem,) = [one.problem for one in told if "was lost" in one.problem]
    assert "--resume" in problem
    assert (told[-1].done, told[-1].total) == (12, 12)
    wanted = {
        **{("picky", f"w{rows}"): "PASSED" for rows in (1, 2, 3, 4)},
        **{("short", f"w{rows}"): "INCORRECT_SHAPE" for rows in (1, 2, 3, 4)},
        **{("slow", f"w{rows}"): "RUNTIME_ERROR" for rows in (1, 2, 3, 4)},
    }
    kept = {(one.solution.name, one.workload.uuid): one.status.value for one in found}
    assert len(kept) == len(found)
    assert kept.items() <= wanted.items()
    lost = wanted.keys() - kept.keys()
    assert 1 <= len(lost) <= 3
    assert len({load for _, load in lost}) == 1
    assert len(load_measurements(tmp_path)) == len(TraceSet.from_path(tmp_path).traces[NORM.name]) == len(found)

    again = run_bench(TraceSet.from_path(tmp_path), resume=True, threads=1, ray=address)
    assert {(one.solution.name, one.workload.uuid) for one in again} == lost


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


def test_a_ray_client_is_refused_with_what_to_do_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(BenchError, match="on a node of the cluster"):
        run_bench(dataset(tmp_path, solution("a", RIGHT)), ray="ray://head:10001")


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BenchError, match=r"fib-plugin\[ray\]"):
        run_bench(dataset(tmp_path, solution("a", RIGHT)), ray="auto")
