"""Two hosts write to one shared folder at once, with the same process ids; one is killed. All is merged once.

A host is what the kernel says it is: a name and process ids of its own. Where namespaces may be made it is one, else
the process is told that name and those ids.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from capture_cases import numbers, script, until

from fib_plugin.dataset import layout, load_counts, merge, validate
from fib_plugin.dataset.counts import read_counts

#: Calls that both processes of both hosts make, and calls of each that lives to its end.
SHARED, CALLS = 100, 400
KEY = '{"n":4}'

HOST = """
import os, socket, struct, sys, time
from pathlib import Path
root, progress, name, first, calls, told = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:7]
if told == "True":
    socket.gethostname = lambda: name

def serve(rank):
    if told == "True":
        os.getpid = lambda: 2 + rank
    from capture_cases import gather, record
    from fib_plugin.capture.writer import Writer
    made = {"calls": {"gather_r8": {'{"n":4}': 0}}}
    writer = Writer(root, rank=rank, snapshot=lambda: made)
    definition = gather()
    (progress / f"{first}.{rank}.who").write_text(f"{socket.gethostname()} {os.getpid()}")
    told_of = os.open(progress / f"{first}.{rank}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for call in range(int(calls) or 1 << 30):
        number = call if call < SHARED else int(first) + rank * 1_000_000 + call
        made["calls"]["gather_r8"]['{"n":4}'] += 1
        assert writer.submit(record(number, definition))
        os.write(told_of, struct.pack("=qd", number, time.time()))
        time.sleep(0.01)
    assert writer.flush(60)
    writer.close()

for rank in (0, 1):
    if os.fork() == 0:
        try:
            serve(rank)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
sys.exit(max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in (0, 1)))
""".replace("SHARED", str(SHARED))

_NAMESPACES = ["unshare", "--user", "--map-root-user", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]


def namespaces_may_be_made() -> bool:
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run([*_NAMESPACES, "sh", "-c", "hostname alpha && test $(hostname) = alpha"], capture_output=True)
    return done.returncode == 0


class Host:
    """Two processes on a host of this name.

    Args:
        calls: that each makes before it ends; 0: they go on for ever.
    """

    def __init__(self, folder: Path, name: str, number: int, calls: int, kind: str) -> None:
        self.progress = folder / "progress"
        self.progress.mkdir(exist_ok=True)
        self._first = 10_000_000 * number
        told = kind == "told"
        prefix = [] if told else [*_NAMESPACES, "sh", "-c", f'hostname {name} && exec "$@"', "sh"]
        arguments = (folder / "shared", self.progress, name, self._first, calls, told)
        self._process = script(HOST, *arguments, prefix=prefix, start_new_session=True, stderr=subprocess.PIPE)

    def taken(self, rank: int) -> list[tuple[int, float]]:
        """Records that a process's writer took, with the time."""
        file = self.progress / f"{self._first}.{rank}"
        data = file.read_bytes() if file.exists() else b""
        return list(struct.iter_unpack("=qd", data[: len(data) // 16 * 16]))

    def lives_for(self, seconds: float) -> bool:
        return all((taken := self.taken(rank)) and taken[0][1] < time.time() - seconds for rank in (0, 1))

    def kill(self) -> float:
        """All of it, at one instant, as a host that loses its power."""
        killed = time.time()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate(timeout=20)
        return killed

    def end(self) -> None:
        """Waits for it."""
        _, errors = self._process.communicate(timeout=120)
        assert self._process.returncode == 0, errors.decode()

    @property
    def who(self) -> tuple[str, str]:
        """Its name, and its process ids as they are there."""
        both = [(self.progress / f"{self._first}.{rank}.who").read_text().split() for rank in (0, 1)]
        assert both[0][0] == both[1][0]
        return both[0][0], f"{both[0][1]} and {both[1][1]}"


def files_of(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def shards(root: Path) -> list[Path]:
    return [file for file in (root / layout.WORKLOADS).rglob("*.jsonl") if layout.shard_of(file) is not None]


@pytest.mark.parametrize("names", [("alpha", "beta"), ("twin", "twin")], ids=["two names", "one name"])
@pytest.mark.parametrize("kind", ["namespaces", "told"])
def test_two_hosts_share_a_folder_and_one_is_killed(tmp_path: Path, kind: str, names: tuple[str, str]) -> None:
    if kind == "namespaces" and not namespaces_may_be_made():
        pytest.skip("this process may make no namespaces")
    root = tmp_path / "shared"
    victim = Host(tmp_path, names[0], 1, 0, kind)
    other = Host(tmp_path, names[1], 2, CALLS, kind)
    try:
        until(lambda: victim.lives_for(3.5) and other.lives_for(0.1), 60)
    finally:
        killed = victim.kill()
    early = merge(root)  # by a third host, which cannot ask for their processes
    assert (early.added["workloads"], early.problems) == (0, [])
    assert sorted(early.shards_left) == sorted(shards(root))
    other.end()
    assert (victim.who[0], other.who[0]) == names
    assert victim.who[1] == other.who[1]
    # Two machines of one name write to the same shards.
    assert len(shards(root)) == 2 * len(set(names))

    taken = {(host, rank): host.taken(rank) for host in (victim, other) for rank in (0, 1)}
    counts = sorted(
        read_counts(file).calls["gather_r8"][KEY]
        for file in (root / layout.COUNTS).glob("*.json")
        if file.stat().st_size
    )
    assert len(counts) == 4
    assert counts.count(CALLS) >= 2
    dead = list(counts)
    dead.remove(CALLS), dead.remove(CALLS)
    for count in dead:
        due = min(sum(stamp < killed - 2.5 for _, stamp in taken[victim, rank]) for rank in (0, 1))
        assert 0 < due <= count <= max(len(taken[victim, rank]) for rank in (0, 1)) + 1

    long_ago = time.time() - 3600
    for shard in shards(root):
        os.utime(shard, (long_ago, long_ago))
    report = merge(root)
    assert report.problems == []
    assert not shards(root)
    found = Counter(numbers(root))
    assert set(found.values()) == {1}
    everything = {number for series in taken.values() for number, _ in series}
    lost = everything - set(found)
    assert all(stamp > killed - 2.5 for rank in (0, 1) for number, stamp in taken[victim, rank] if number in lost)
    assert not lost & {number for rank in (0, 1) for number, _ in taken[other, rank]}
    assert load_counts(root) == {"gather_r8": {KEY: sum(counts)}}
    assert validate(root).problems == []

    before = files_of(root)
    again = merge(root)
    assert (again.added["workloads"], again.duplicates, again.problems) == (0, 0, [])
    assert files_of(root) == before

    into = tmp_path / "into"
    first, second = merge(into, [root]), merge(into, [root])
    assert (first.added["workloads"], second.added["workloads"]) == (len(found), 0)
    assert sorted(numbers(into)) == sorted(found)
    assert load_counts(into) == load_counts(root)
