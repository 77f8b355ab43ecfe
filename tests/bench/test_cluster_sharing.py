"""How a cluster's devices share tasks, told without Ray: by environment, and until a device dies too often."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from bench.bench_cases import NORM, RIGHT, solution, workload

from fib_plugin import ops
from fib_plugin.bench.cluster import Cluster, _Spot
from fib_plugin.bench.devices import Seat
from fib_plugin.bench.task import LeftOut, Task
from fib_plugin.schema import Environment

LARGE, SMALL = (Environment(hardware=name, libs={"torch": "2.13.0"}) for name in ("large", "small"))
NEWER = Environment(hardware="small", libs={"torch": "2.13.1"})  # a patch release measures the same


class Lost(Exception):
    """In place of what Ray raises."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster.__new__(Cluster)
    found._spots = [_Spot(f"node{n}", f"10.0.0.{n}", "cpu", 1.0) for n in range(3)]
    found._actors, found._closed, found._own, found._why = {}, False, False, ""
    found._ray = SimpleNamespace(exceptions=SimpleNamespace(RayError=Lost), is_initialized=lambda: False)
    return found


def tasks(count: int) -> deque[Task]:
    config = ops.evaluation_config(NORM, None)
    loads = [workload(f"w{n}", batch_size=n + 1).workload for n in range(count)]
    return deque(Task(NORM, load, [solution("a", RIGHT)], [], config) for load in loads)


def test_each_environment_is_asked_everything_and_its_devices_share_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_environments", lambda: iter([(0, LARGE), (1, SMALL), (2, NEWER)]))
    planned: list[tuple[str, str]] = []

    def plan(environment: Environment, device: str) -> deque[Task]:
        planned.append((environment.hardware, device))
        return tasks(4)

    def seat(index: int, waiting: deque[Task], *_: Any) -> Seat[Task, Any]:
        hardware = "large" if index == 0 else "small"
        return Seat(lambda: lambda task: iter([f"{hardware} {task.workload.uuid}"]), waiting, lambda: None)

    monkeypatch.setattr(cluster, "_seat", seat)
    found = list(cluster.work(plan, None, lambda: 0.0))
    assert planned == [("large", "cpu"), ("small", "cpu")]
    assert sorted(map(str, found[1:])) == [f"{hardware} w{n}" for hardware in ("large", "small") for n in range(4)]


def test_a_device_that_dies_again_and_again_takes_no_more_and_what_is_left_is_said(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> Iterator[Any]:
        raise Lost("the node is gone\nand much more")

    actor = SimpleNamespace(work=SimpleNamespace(options=lambda **_: SimpleNamespace(remote=die)))
    monkeypatch.setattr(cluster, "_environments", lambda: iter([(0, LARGE)]))
    monkeypatch.setattr(cluster, "_actor", lambda index: actor)
    _, missing, *found = list(cluster.work(lambda *_: tasks(5), None, lambda: 0.0))
    assert missing == LeftOut(0, "2 of 3 devices of the Ray cluster do not take part: busy, or not up yet")
    assert all(isinstance(one, LeftOut) and one.count == 1 for one in found)
    whys = [one.why for one in found if isinstance(one, LeftOut)]
    assert len(whys) == 5
    assert all("the worker on 10.0.0.0 (cpu) was lost: the node is gone (continue" in why for why in whys[:3])
    assert all("no worker is left" in why for why in whys[3:])
