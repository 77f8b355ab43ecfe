"""Cluster: the devices of all nodes of a Ray cluster, each an actor that does one task at a time.

What an actor finds comes to the driver as it is found; an actor that dies costs the task it was at, and is replaced.
Nodes with the same device and libraries share their tasks; a task is done once in each such environment.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fib_plugin.bench.devices import GaveUp, Seat, spread
from fib_plugin.bench.results import BenchResult
from fib_plugin.bench.selection import BenchError
from fib_plugin.bench.task import Found, LeftOut, Task
from fib_plugin.dataset import compatible, current_environment
from fib_plugin.schema import Environment, SafetensorsInput

#: Deaths in a row after which a device takes no more tasks.
_MOST_DEATHS = 3
_START_S = 300.0
#: How long the others are waited for once one device is there: a node may be busy with other people's work.
_MORE_S = 60.0
_LOCAL = "local"

#: What is to be done in an environment, on devices of a kind.
Plan = Callable[[Environment, str], deque[Task]]


@dataclass(slots=True)
class _Spot:
    """One device of one node."""

    node: str
    where: str
    device: str
    cpus: float

    def options(self, ray: Any) -> dict[str, Any]:
        """A GPU for itself, or all CPUs of the node: what runs beside a measurement is measured too."""
        bound = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(self.node, soft=False)
        asked = {"num_gpus": 1, "num_cpus": 0} if self.device == "cuda" else {"num_gpus": 0, "num_cpus": self.cpus}
        return {**asked, "scheduling_strategy": bound, "max_restarts": 0}


class _Bench:
    """What runs on a node: a desk for the one device that Ray assigned to this process."""

    def __init__(
        self,
        device: str,
        threads: int | None,
        timeout: float,
        run_name: str,
        graphs: bool = True,
        warm: bool = False,
        kernels: bool = False,
    ) -> None:
        from fib_plugin import settings
        from fib_plugin.bench.builds import Builds
        from fib_plugin.bench.child import Place
        from fib_plugin.bench.desk import Desk
        from fib_plugin.bench.host import physical_cores

        import torch  # isort: skip  # before the environment is asked for: it names the device that torch uses

        self._root = tempfile.TemporaryDirectory(prefix="fib-bench-")
        place = Place(device, threads or physical_cores(), settings.load().cache_path, graphs, warm, kernels)
        torch.set_num_threads(place.threads)
        self._environment = current_environment()
        self._builds = Builds(place.cache, physical_cores())
        self._desk = Desk(place, timeout, Path(self._root.name), self._builds, self._environment, run_name)

    def environment(self) -> Environment:
        return self._environment

    def work(self, task: Task, files: dict[str, bytes], seconds: float) -> Iterator[Found]:
        """Do ``task``, whose saved tensors are in ``files``, beginning nothing after ``seconds``."""
        stop_at = time.monotonic() + seconds
        for path, content in files.items():
            file = Path(self._root.name) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        self._builds.compile([*task.solutions, *task.displaced])
        try:
            yield from self._desk.work(task, stop_at)
        finally:
            for path in files:
                (Path(self._root.name) / path).unlink(missing_ok=True)


class Cluster:
    """Use as a context manager.

    Args:
        address: of the cluster's head (``host:6379``), of which this host must be a node; ``auto`` finds it; ``local``
            starts one for this run.
        devices: ``cpu`` or ``cuda``; None takes the GPUs of all nodes, or all CPUs where there is none.
        threads: CPU threads of an evaluation; None takes each node's cores.
        timeout, run_name: as for `Desk`.
        graphs, warm, kernels: as for `run_bench`.

    Raises:
        BenchError: Ray is not installed, cannot be reached, or has no such device.
    """

    def __init__(
        self,
        address: str,
        devices: Sequence[str] | None,
        threads: int | None,
        timeout: float,
        run_name: str,
        graphs: bool = True,
        warm: bool = False,
        kernels: bool = False,
    ) -> None:
        try:
            import ray
            import ray.util.scheduling_strategies
        except ImportError as error:
            raise BenchError(
                f"Ray cannot be imported: {error} (pip install 'fib-plugin[ray]' on every node)"
            ) from error
        self._ray: Any = ray
        self._arguments = (threads, timeout, run_name, graphs, warm, kernels)
        self._own = not ray.is_initialized()
        if self._own:
            self._connect(address)
        self._actors: dict[int, Any] = {}
        self._closed = False
        self._why = ""
        self._spots = self._find(devices)
        if not self._spots:
            self.close()
            asked = f"no {' or '.join(devices)} device" if devices else "no device"
            raise BenchError(f"the Ray cluster at {address} offers {asked} (see `ray status`)")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors, and the connection if it was made here."""
        self._closed = True
        for index in list(self._actors):
            self._end(index)
        if self._own and self._ray.is_initialized():
            self._ray.shutdown()

    def work(self, plan: Plan, root: Path | None, stop_at: Callable[[], float]) -> Iterator[Found]:
        """Everything that ``plan`` says for the environments that the devices report, as it is found.

        Args:
            plan: asked once for each environment.
            root: of the dataset; saved tensors are sent along with the tasks that need them.
            stop_at: the monotonic time after which nothing is begun.
        """
        yield f"waiting for {len(self._spots)} devices of the Ray cluster"
        groups: list[tuple[Environment, deque[Task]]] = []
        seats: list[Seat[Task, Found]] = []
        for index, environment in self._environments():
            waiting = next((tasks for known, tasks in groups if compatible(known, environment) is None), None)
            if waiting is None:
                waiting = plan(environment, self._spots[index].device)
                groups.append((environment, waiting))
            seats.append(self._seat(index, waiting, root, stop_at))
        if not seats:
            raise BenchError(f"no device of the Ray cluster could be used within {_START_S:g} s: {self._why or 'busy'}")
        missing = len(self._spots) - len(seats)
        if missing:
            why = self._why or "busy, or not up yet"
            yield LeftOut(0, f"{missing} of {len(self._spots)} devices of the Ray cluster do not take part: {why}")
        yield from spread(seats)
        for _, waiting in groups:
            for task in waiting:
                yield LeftOut(
                    len(task.solutions), f"{task.definition.name}: no worker is left (continue with --resume)"
                )

    def _connect(self, address: str) -> None:
        if address.startswith("ray://"):
            raise BenchError(f"{address}: results are not streamed to a Ray client (run this on a node of the cluster)")
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address == _LOCAL:
                self._ray.init(address="local", include_dashboard=False, **quiet)
            else:
                self._ray.init(address=address, **quiet)
        except Exception as error:
            raise BenchError(
                f"no Ray cluster can be reached at {address}: {error} (start one with `ray start --head`, name its "
                "address, or use --ray local for one that lasts as long as this run)"
            ) from error

    def _find(self, devices: Sequence[str] | None) -> list[_Spot]:
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        kinds = {device.split(":")[0] for device in devices} if devices else set()
        if not kinds:
            kinds = {"cuda"} if any(node["Resources"].get("GPU") for node in nodes) else {"cpu"}
        spots = []
        for node in nodes:
            given, where = node["Resources"], node["NodeManagerAddress"]
            cpus = given.get("CPU", 0.0)
            if "cuda" in kinds:
                spots += [_Spot(node["NodeID"], where, "cuda", cpus) for _ in range(int(given.get("GPU", 0)))]
            if "cpu" in kinds and cpus:
                spots.append(_Spot(node["NodeID"], where, "cpu", cpus))
        return spots

    def _environments(self) -> Iterator[tuple[int, Environment]]:
        """Start all actors; those that come up, with what they are."""
        asked = {}
        for index in range(len(self._spots)):
            asked[self._actor(index).environment.remote()] = index
        end = time.monotonic() + _START_S
        while asked:
            ready, _ = self._ray.wait(list(asked), num_returns=1, timeout=max(0.0, end - time.monotonic()))
            if not ready:
                return
            end = min(end, time.monotonic() + _MORE_S)
            index = asked.pop(ready[0])
            try:
                yield index, self._ray.get(ready[0])
            except self._ray.exceptions.RayError as error:
                self._why = f"{self._spots[index].where}: {_short(error)}"

    def _actor(self, index: int) -> Any:
        spot = self._spots[index]
        if index not in self._actors:
            self._actors[index] = (
                self._ray.remote(_Bench).options(**spot.options(self._ray)).remote(spot.device, *self._arguments)
            )
        return self._actors[index]

    def _end(self, index: int) -> None:
        actor = self._actors.pop(index, None)
        if actor is not None and self._ray.is_initialized():
            self._ray.kill(actor)

    def _seat(
        self, index: int, waiting: deque[Task], root: Path | None, stop_at: Callable[[], float]
    ) -> Seat[Task, Found]:
        deaths = 0

        def work(task: Task) -> Iterator[Found]:
            nonlocal deaths
            if deaths >= _MOST_DEATHS:
                waiting.appendleft(task)
                raise GaveUp
            left = len(task.solutions)
            try:
                seconds = min(stop_at() - time.monotonic(), 1e9)
                answers = self._actor(index).work.options(num_returns="streaming")
                for answer in answers.remote(task, _files(task, root), seconds):
                    found = self._ray.get(answer)
                    left -= 1 if isinstance(found, BenchResult) else found.count if isinstance(found, LeftOut) else 0
                    yield found
                deaths = 0
            except self._ray.exceptions.RayError as error:
                deaths += 1
                self._end(index)
                if not self._closed:
                    yield LeftOut(left, f"{task.definition.name}: {self._lost(index, error)}")

        return Seat(lambda: work, waiting, lambda: self._end(index))

    def _lost(self, index: int, error: Exception) -> str:
        spot = self._spots[index]
        return f"the worker on {spot.where} ({spot.device}) was lost: {_short(error)} (continue with --resume)"


def _files(task: Task, root: Path | None) -> dict[str, bytes]:
    """The saved tensors of a task; a file that is not there is missed where it is read."""
    if root is None:
        return {}
    paths = {source.path for source in task.workload.inputs.values() if isinstance(source, SafetensorsInput)}
    return {path: (root / path).read_bytes() for path in paths if os.access(root / path, os.R_OK)}


def _short(error: Exception) -> str:
    """The first line of what Ray says; the rest is for those who debug Ray."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = getattr(error, "cause", None)
    return f"{type(cause).__name__}: {cause}" if cause is not None else lines[0] if lines else type(error).__name__
