"""A process killed at any instant leaves whole lines, whole blobs, and all records but those of the last second.

The children are forked by one process that imports only once, so that 200 kills take well below a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from capture_cases import numbers, script
from safetensors.numpy import load_file

from fib_plugin.dataset.counts import read_counts
from fib_plugin.dataset.layout import shard_of
from fib_plugin.dataset.merging import merge
from fib_plugin.dataset.validation import validate

KILLS = 200
LIVE_LONG = 12  # of them, spread over the run, live for more than a second, so that something is due
STEP = 100_000

FORKS = """
import os, random, struct, sys, time
from pathlib import Path
from capture_cases import gather, record
from fib_plugin.capture.writer import Writer
root, progress = Path(sys.argv[1]), int(sys.argv[2])
definitions = [gather(rows) for rows in range(2, 10)]

write = os.write

def hesitate():
    if random.random() < 0.2:
        time.sleep(0.002)

def use_a_slow_disk():
    # It waits before and within each step, so that kills hit the moments between two of them.
    def slow(call):
        def run(*arguments, **options):
            hesitate()
            return call(*arguments, **options)
        return run
    def write_a_part(fd, data):
        hesitate()
        return write(fd, data[: random.randrange(len(data)) + 1])
    os.replace, os.fsync, os.link, os.write = slow(os.replace), slow(os.fsync), slow(os.link), write_a_part

def write_for_ever(number, pause):
    counts = {"calls": {"gather_r8": {"{}": 0}}}
    writer = Writer(root, snapshot=lambda: counts)
    writer.start()
    while True:
        counts["calls"]["gather_r8"]["{}"] = number
        if writer.submit(record(number, definitions[number % len(definitions)])):
            write(progress, struct.pack("=qd", number, time.time()))
        number += 1
        time.sleep(pause)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        first, slow = line.split()
        if slow == "True":
            use_a_slow_disk()
        write_for_ever(int(first), 0.004 if slow == "True" else 0.001)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


class Forks:
    """Starts children that write, and kills them."""

    def __init__(self, root: Path) -> None:
        self._progress, theirs = os.pipe()
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "pass_fds": (theirs,)}
        self._process = script(FORKS, root, theirs, **options)
        os.close(theirs)
        os.set_blocking(self._progress, False)

    def kill_one(self, first: int, delay: float, slow: bool) -> tuple[int, set[int]]:
        """The child's number, and which of its records had been taken more than a second before it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{first} {slow}\n".encode())
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        end = time.monotonic() + delay
        taken = b""
        while time.monotonic() < end:
            taken += self._read()  # a full pipe would stop the child
            time.sleep(min(0.02, max(end - time.monotonic(), 0)))
        killed = time.time()
        os.kill(pid, signal.SIGKILL)
        assert self._process.stdout.readline() == b"gone\n"
        taken += self._read()
        whole = len(taken) - len(taken) % 16
        return pid, {number for number, stamp in struct.iter_unpack("=qd", taken[:whole]) if stamp < killed - 1.0}

    def _read(self) -> bytes:
        try:
            return os.read(self._progress, 1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self._process.communicate(timeout=10)
        os.close(self._progress)


@pytest.fixture
def forks(root: Path) -> Iterator[Forks]:
    started = Forks(root)
    yield started
    started.close()


def left_by(root: Path, pid: int) -> tuple[set[int], set[int]]:
    """The records of one process, and those of lines without an end that can be read by chance.

    Fails on a line that cannot be read and on a blob that is missing or broken.
    """
    found, unended = set(), set()
    for file in (root / "workloads").rglob(f"*-{pid}.jsonl"):
        *whole, torn = file.read_bytes().split(b"\n")
        found.update(number_in(root, line) for line in whole)
        if torn.endswith(b"}"):
            with contextlib.suppress(ValueError):
                unended.add(number_in(root, torn))
    for file in (root / "fib/counts").glob(f"*.{pid}.*.json"):
        assert read_counts(file).calls["gather_r8"]["{}"] >= 0
    return found, unended


def number_in(root: Path, line: bytes) -> int:
    index = json.loads(line)["workload"]["inputs"]["index"]
    (number,) = set(load_file(root / index["path"])[index["tensor_key"]].tolist())
    return int(number)


def tear_a_line(root: Path) -> Path:
    """What a kill within a write leaves, in case that none of the 200 hit one."""
    shard = next(file for file in sorted((root / "workloads").rglob("*.jsonl")) if shard_of(file))
    with shard.open("ab") as file:
        file.write(b'{"definition": "gather_r8", "workl')
    return shard


def test_200_kills_leave_every_line_readable_and_lose_at_most_a_second(root: Path, forks: Forks) -> None:
    chance = random.Random(11)
    due: set[int] = set()
    kept: set[int] = set()
    unended: set[int] = set()
    for at in range(KILLS):
        long = at % (KILLS // LIVE_LONG) == 0
        slow = not long and at % 2 == 0
        delay = chance.uniform(1.05, 1.4) if long else chance.uniform(0.02 if slow else 0.005, 0.12)
        pid, settled = forks.kill_one(at * STEP, delay, slow)
        left, last = left_by(root, pid)
        assert settled <= left, f"kill {at}: {len(settled - left)} records older than a second are gone"
        due |= settled
        kept |= left
        unended |= last
    assert len(due) > 10 * LIVE_LONG
    assert len({number // STEP for number in kept}) > KILLS // 4, "hardly any child lived to write something"
    torn = tear_a_line(root)
    report = merge(root)
    assert report.problems == []
    assert [note for note in report.notes if torn.name in note and "torn" in note]
    assert validate(root).problems == []
    # A line that lacks nothing but its newline is a record, too.
    assert kept <= set(numbers(root)) <= kept | unended
