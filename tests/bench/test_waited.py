"""The kernel's account of how long a process could have run and had no core."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fib_plugin.bench import tree

_SPIN = "import os\nos.sched_setaffinity(0, {int(__import__('sys').argv[1])})\nwhile True: pass\n"

pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel keeps no such account")


@pytest.fixture
def spinners() -> Iterator[list[int]]:
    """Two processes that want the same core all the time."""
    core = str(max(os.sched_getaffinity(0)))
    started = [subprocess.Popen([sys.executable, "-c", _SPIN, core]) for _ in range(2)]
    time.sleep(0.2)
    yield [one.pid for one in started]
    for one in started:
        one.kill()
        one.wait()


def test_two_processes_on_one_core_keep_each_other_waiting(spinners: list[int]) -> None:
    before, start = [tree.waited_ns(pid) for pid in spinners], time.perf_counter_ns()
    time.sleep(0.4)
    waited = sum(tree.waited_ns(pid) - first for pid, first in zip(spinners, before, strict=True))
    assert waited > 0.5 * (time.perf_counter_ns() - start)


def test_of_a_process_that_is_gone_nothing_is_told() -> None:
    assert tree.waited_ns(2**22 + 1) == 0
