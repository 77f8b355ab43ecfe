"""A run outlives a reference that fails, and the death of any process that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bench_cases import NORM, RIGHT, dataset, solution, workload

from fib_plugin.bench import BenchResult, run_bench, tree
from fib_plugin.bench.forkserver import ForkServer
from fib_plugin.bench.runner import Progress
from fib_plugin.dataset import TraceSet
from fib_plugin.schema import Definition

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="Linux only")
SLOW = "import time\n" + RIGHT.replace("    return", "    time.sleep(0.05)\n    return")
WORKLOADS = (workload("w1", batch_size=4), workload("w2", batch_size=8))


def bench(
    traces: TraceSet, cache: Path, at: Callable[[str], None] = lambda _: None
) -> tuple[list[BenchResult], list[str]]:
    """Results and problems; ``at`` is called with what the run is at."""
    problems: list[str] = []

    def note(progress: Progress) -> None:
        if progress.problem and "sandbox is weaker" not in progress.problem:
            problems.append(progress.problem)
        if progress.doing:
            at(progress.doing)

    return run_bench(traces, progress=note, timeout=20.0, threads=1, cache=cache, save=False), problems


def forked(parent: int) -> int:
    """The first process below ``parent`` that is told to be a fork server, or was forked from one; 0 without any."""
    for pid in sorted(pid for pid in tree.below(parent) if tree.parent(pid) == parent):
        with contextlib.suppress(OSError):  # it may end while it is looked at
            if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return 0


def server() -> int:
    return forked(os.getpid())


def first_child_of_the_server() -> int:
    """The process of the reference, which is started before any solution's, once it is at work."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        if (at := server()) and (child := forked(at)):
            time.sleep(0.3)
            return child
        time.sleep(0.01)
    raise AssertionError("no reference process was started")


class Killer:
    """Kills a process a moment after a run has come to ``when``, once, while a slow call is under way."""

    def __init__(self, when: str, whom: Callable[[], int], after_s: float = 0.2) -> None:
        self.killed = threading.Event()
        self._when, self._whom, self._after = when, whom, after_s
        self._begun = False

    def __call__(self, doing: str) -> None:
        if self._when in doing and not self._begun:
            self._begun = True
            threading.Thread(target=self._strike, daemon=True).start()

    def _strike(self) -> None:
        time.sleep(self._after)
        pid = self._whom()
        assert pid > 1
        os.kill(pid, signal.SIGKILL)
        self.killed.set()


def referenced(first: str, line: str) -> Definition:
    """The norm, with ``first`` on top of its reference and ``line`` at the beginning of its function."""
    reference = (
        f"import os\nimport time\n\nimport torch\n\n{first}\n\n\ndef run(x, weight):\n    {line}\n"
        "    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-5)\n"
    )
    return NORM.model_copy(update={"reference": reference})


def test_a_reference_that_crashes_costs_its_own_workloads_only(tmp_path: Path, cache: Path) -> None:
    definition = referenced("def abort():\n    print('oh', flush=True)\n    os.abort()", "x.shape[0] == 4 and abort()")
    traces = dataset(tmp_path, solution("right", RIGHT), workloads=WORKLOADS, definition=definition)
    results, problems = bench(traces, cache)
    assert [(one.workload.uuid, one.status.value) for one in results] == [("w2", "PASSED")]
    (why,) = problems
    assert "workload w1" in why
    assert "SIGABRT" in why
    assert "oh" in why


def test_a_reference_that_fails_on_a_timed_calls_inputs_is_no_fault_of_the_solution(
    tmp_path: Path, cache: Path
) -> None:
    definition = referenced("calls = []", "calls.append(0); assert x.shape[0] != 4 or len(calls) < 10, 'no more'")
    traces = dataset(tmp_path, solution("right", RIGHT), workloads=WORKLOADS, definition=definition)
    results, problems = bench(traces, cache)
    assert [one.workload.uuid for one in results] == ["w2"]
    assert "workload w1" in problems[0]
    assert "AssertionError: no more" in problems[0]


def test_a_killed_fork_server_costs_no_verdict(tmp_path: Path, cache: Path) -> None:
    traces = dataset(tmp_path, solution("slow", SLOW), solution("tail", RIGHT), workloads=WORKLOADS)
    killer = Killer(": slow", server)
    results, problems = bench(traces, cache, killer)
    assert killer.killed.is_set()
    assert not problems
    assert [one.status.value for one in results] == ["PASSED"] * 4, [one.log for one in results]


def test_a_fork_server_that_dies_while_it_is_asked_costs_no_verdict(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ForkServer.latency_ns
    killed: list[int] = []

    def latency_ns(self: ForkServer) -> int:
        if not killed:
            killed.append(self._process.pid)
            os.kill(self._process.pid, signal.SIGKILL)
        return asked(self)

    monkeypatch.setattr(ForkServer, "latency_ns", latency_ns)
    results, problems = bench(dataset(tmp_path, solution("right", RIGHT), workloads=WORKLOADS[:1]), cache)
    assert killed
    assert not problems
    assert [one.status.value for one in results] == ["PASSED"], [one.log for one in results]


def test_a_killed_reference_process_costs_no_verdict(tmp_path: Path, cache: Path) -> None:
    definition = referenced("", "time.sleep(0.4)")
    traces = dataset(tmp_path, solution("right", RIGHT), workloads=WORKLOADS[:1], definition=definition)
    killer = Killer("inputs and reference", first_child_of_the_server, after_s=0.0)
    results, problems = bench(traces, cache, killer)
    assert killer.killed.is_set()
    assert [one.status.value for one in results] == ["PASSED"], [one.log for one in results]
    assert not problems


def test_a_host_that_can_start_no_process_leaves_out_its_workloads(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fib_plugin.bench.forkserver._CODE", "raise SystemExit('no torch here')")
    traces = dataset(tmp_path, solution("right", RIGHT), workloads=WORKLOADS)
    results, problems = bench(traces, cache)
    assert not results
    assert [f"workload {name}" in why for name, why in zip(("w1", "w2"), problems, strict=True)] == [True, True]
    assert "no torch here" in problems[0]
