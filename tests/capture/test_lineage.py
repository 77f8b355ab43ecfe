"""Processes are told apart by number and start, so that no later one is taken for an earlier one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fib_plugin.capture.lineage import identity, lineage, lives


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_lineage_leads_from_this_process_over_its_parent_to_the_first() -> None:
    line = lineage()
    assert line[:2] == [identity(os.getpid()), identity(os.getppid())]
    assert line[-1].startswith("1.")


def test_a_child_has_this_process_in_its_lineage() -> None:
    code = "from fib_plugin.capture.lineage import lineage; print(*lineage())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert printed[1:] == lineage()


def test_an_identity_stays_while_the_process_lives(child: subprocess.Popen[bytes]) -> None:
    name = identity(child.pid)
    assert name is not None
    assert name == identity(child.pid)
    assert lives(name)


def test_a_killed_process_does_not_live_even_before_it_is_waited_for(child: subprocess.Popen[bytes]) -> None:
    name = identity(child.pid)
    assert name is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not lives(name)
    assert identity(child.pid) is None


def test_another_process_of_the_same_number_is_another_process() -> None:
    assert not lives(f"{os.getpid()}.1")


@pytest.mark.parametrize("name", ["", "x.1", "99999999999.1", f"{os.getpid()}"])
def test_a_name_that_no_process_has_does_not_live(name: str) -> None:
    assert not lives(name)


def test_a_command_with_parentheses_and_blanks_is_no_trouble() -> None:
    code = (
        "import pathlib; pathlib.Path('/proc/self/comm').write_text('a) R 1 (b');"
        "from fib_plugin.capture.lineage import lineage; print(*lineage())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert printed[1:] == lineage()
