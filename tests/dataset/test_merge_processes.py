"""Merging while other processes merge, and while they write."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest
from sample_dataset import NAME, WORKLOADS, Dataset

from fib_plugin.dataset import load_counts, merge, merge_lock, validate
from fib_plugin.schema import SchemaError

Make = Callable[[str], Dataset]

MERGE = """
import sys, time
from pathlib import Path
from fib_plugin.dataset import merge
into, ready, *sources = map(Path, sys.argv[1:])
ready.touch()
while not ready.with_name("go").exists():
    time.sleep(0.001)
report = merge(into, sources)
assert not report.problems, report.problems
"""

#: A serving process as the dataset sees it: the real writer, fed with records that all differ.
WRITE = """
import sys, time
from pathlib import Path
import numpy
from fib_plugin.capture.writer import RANDOM, Record, Writer
from fib_plugin.dataset import axes_key
from fib_plugin.schema import Definition, parse
root, definition, first, records = Path(sys.argv[1]), parse(Definition, sys.argv[2].encode()), *map(int, sys.argv[3:])
calls = {definition.name: {axes_key({"m": 2, "n": 8}): records}}
writer = Writer(root, snapshot=lambda: {"calls": calls}, quota_bytes=None)
for number in range(first, first + records):
    index = numpy.array([number, 0], dtype=numpy.int32)
    writer.submit(Record(definition, None, {"n": 8, "m": 2}, {"x": RANDOM, "index": index, "scale": 0.5}))
    time.sleep(0.002)
assert writer.flush(60)
writer.close()
assert writer.stats["written"] == records, writer.stats
"""


def run(source: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def ended(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def indices(made: Dataset) -> Counter[tuple[str, ...]]:
    """Every workload's content, by the bytes of its blob; fails on a blob that is missing."""
    from safetensors.numpy import load_file

    found: Counter[tuple[str, ...]] = Counter()
    for line in made.read(WORKLOADS):
        source = line["workload"]["inputs"]["index"]
        found[tuple(map(str, load_file(made.root / source["path"])[source["tensor_key"]]))] += 1
    return found


@pytest.mark.parametrize("same", [True, False], ids=["the same source", "different sources"])
def test_merges_at_once_bring_each_record_once(make: Make, tmp_path: Path, same: bool) -> None:
    into = make("into")
    sources = []
    for number in range(3):
        source = make(f"source{number}")
        source.definition()
        start = 0 if same else 10 * number
        # Each shares half of its records with the next; blobs have the same names, whatever they hold.
        lines = [source.indexed(f"w{at}", (at, start), blob=f"b{at - start}") for at in range(start, start + 20)]
        source.lines(WORKLOADS, *lines)
        content = {"version": 1, "host": "h", "pid": 1, "started": 1, "calls": {NAME: {'{"m":2,"n":8}': 7}}}
        source.document("fib/counts/h.1.1.json", content)
        sources.append(source.root)
    processes = [run(MERGE, into.root, tmp_path / f"ready{at}", *sources) for at in range(3)]
    while not all((tmp_path / f"ready{at}").exists() for at in range(3)):
        time.sleep(0.01)
    (tmp_path / "go").touch()
    ended(*processes)
    found = indices(into)
    assert set(found.values()) == {1}
    assert len(found) == (20 if same else 60)
    assert load_counts(into.root) == {NAME: {'{"m":2,"n":8}': 7}}
    assert validate(into.root).problems == []
    files = into.files()
    assert sum(merge(into.root, sources).added.values()) == 0
    assert into.files() == files


def test_merging_while_processes_write_loses_and_doubles_nothing(make: Make) -> None:
    shared, copy = make("shared"), make("copy")
    definition = json.dumps(shared.definition())
    # The second half of each process's records is the first half of the next one's.
    writers = [run(WRITE, shared.root, definition, 100 * at, 200) for at in range(2)]
    merges = 0
    while any(writer.poll() is None for writer in writers):
        for report in (merge(shared.root, every=merges % 2 == 0), merge(copy.root, [shared.root], every=True)):
            assert report.problems == []
        merges += 1
    ended(*writers)
    for _ in range(2):
        assert merge(shared.root).shards_left == []
    assert merge(copy.root, [shared.root]).problems == []
    assert merges > 1
    everything = Counter({(str(number), "0"): 1 for number in range(300)})
    assert indices(shared) == indices(copy) == everything
    assert list(shared.root.glob("workloads/**/*.rank*.jsonl")) == []
    assert load_counts(shared.root) == load_counts(copy.root) == {NAME: {'{"m":2,"n":8}': 400}}
    for made in (shared, copy):
        assert validate(made.root).problems == []


def test_a_merge_that_waits_too_long_for_another_says_so(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_lock, "_TIMEOUT_S", 0.05)
    with (
        filelock.FileLock(dataset.root / "fib/.merge.lock"),
        pytest.raises(SchemaError, match="another merge") as error,
    ):
        merge(dataset.root)
    assert error.value.file == str(dataset.root)
    merge(dataset.root)
