"""Reservoirs of many processes become one uniform sample of all their calls, whatever is merged how often."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fib_plugin import ops
from fib_plugin.capture.policy_sample import Reservoir
from fib_plugin.dataset import TraceSet, layout, merge
from fib_plugin.dataset import fold as fold_module
from fib_plugin.dataset.curating import curate
from fib_plugin.dataset.reservoirs import Held, ProcessFile, Reservoirs, pooled
from fib_plugin.schema import dump_pretty

DEFINITION = ops.ALL["gemm"].definition(n=8, k=4)
NAME = DEFINITION.name
HOST = layout.this_host()
#: No process has such a number: its shards are those of a process that ended.
ENDED = 4_194_303


def capture(root: Path, pid: int, held: Held, uuids: list[str] | None = None, size: int = 0) -> Path:
    """What a process left: its shard, with one workload of its own size for each uuid, and its reservoir."""
    file = layout.definition_file(root, DEFINITION)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(dump_pretty(DEFINITION))
    names = [uuid for _, uuid in held.members] + held.left if uuids is None else uuids
    shard = root / layout.WORKLOADS / "gemm" / f"{NAME}.rank0.{HOST}-{pid}.jsonl"
    shard.parent.mkdir(parents=True, exist_ok=True)
    with shard.open("a") as lines:
        for number, uuid in enumerate(names, size or pid * 1000 % 999_983):
            inputs = {name: {"type": "random"} for name in DEFINITION.inputs}
            workload = {"axes": {"M": number}, "inputs": inputs, "uuid": uuid}
            line = {"definition": NAME, "workload": workload, "solution": None, "evaluation": None}
            lines.write(json.dumps(line) + "\n")
    content = ProcessFile(host=HOST, pid=pid, started=1.0, held={NAME: held})
    (root / layout.RESERVOIRS).mkdir(parents=True, exist_ok=True)
    (root / layout.RESERVOIRS / f"{HOST}.{pid}.1000.json").write_bytes(msgspec.json.encode(content))
    return shard


def stored(root: Path) -> set[str]:
    return {trace.workload.uuid for trace in TraceSet.from_path(root).workloads.get(NAME, ())}


def bytes_of(root: Path) -> dict[str, bytes]:
    files = (file for file in root.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


A = Held(k=2, members=[(0.1, "a1"), (0.4, "a2")], left=["a3"])
B = Held(k=2, members=[(0.2, "b1"), (0.3, "b2")], left=["b3", "b4"])


# ---- pooling --------------------------------------------------------------------------------------------------------


def test_the_smallest_keys_are_kept_and_the_others_named() -> None:
    assert pooled([A, B]) == Held(k=2, members=[(0.1, "a1"), (0.2, "b1")], left=["a2", "a3", "b2", "b3", "b4"])


HELD = st.builds(
    lambda keys, left: Held(k=4, members=sorted((key / 1000, f"w{key}") for key in keys), left=left),
    st.sets(st.integers(1, 999), max_size=4),
    st.lists(st.sampled_from([f"w{key}" for key in range(1000)]), max_size=3, unique=True).map(sorted),
)


@given(st.lists(HELD, min_size=1, max_size=5))
def test_it_makes_no_difference_in_which_order_or_how_often_reservoirs_are_pooled(parts: list[Held]) -> None:
    once = pooled(parts)
    assert once is not None
    assert pooled([once, *reversed(parts), once]) == once
    gradually = parts[0]
    for part in parts:
        again = pooled([gradually, part])
        assert again is not None
        gradually = again
    assert gradually.members == once.members


def streams(lengths: list[int], k: int, chance: random.Random) -> list[Held]:
    """Reservoirs of streams whose calls are named ``stream:call``."""
    found = []
    for number, length in enumerate(lengths):
        reservoir, slots, at = Reservoir(k, chance), dict[int, tuple[float, str]](), 0
        while (at := at + reservoir.wait) < length:
            slot, key = reservoir.enter()
            slots[slot] = (key, f"{number}:{at}")
            at += 1
        found.append(Held(k=k, members=sorted(slots.values())))
    return found


def test_every_call_of_all_streams_is_as_likely_as_another() -> None:
    lengths, k, runs, chance = [3, 40, 10, 7], 6, 4000, random.Random(3)
    calls = Counter[str]()
    for _ in range(runs):
        held = pooled(streams(lengths, k, chance))
        assert held is not None
        assert len(held.members) == k
        calls.update(uuid for _, uuid in held.members)
    share = k / sum(lengths)
    allowed = 6 * (runs * share * (1 - share)) ** 0.5
    assert len(calls) == sum(lengths)
    assert max(abs(count - runs * share) for count in calls.values()) < allowed


# ---- merging --------------------------------------------------------------------------------------------------------


def test_a_merge_keeps_the_members_of_all_processes_together(tmp_path: Path) -> None:
    capture(tmp_path, ENDED, A)
    capture(tmp_path, ENDED - 1, B)
    report = merge(tmp_path)
    assert stored(tmp_path) == {"a1", "b1"}
    assert (report.let_go, report.problems) == (5, [])


def test_merging_again_changes_nothing(tmp_path: Path) -> None:
    capture(tmp_path, ENDED, A)
    capture(tmp_path, ENDED - 1, B)
    merge(tmp_path)
    before = bytes_of(tmp_path)
    assert merge(tmp_path).let_go == 0
    assert bytes_of(tmp_path) == before


def test_a_later_process_takes_the_place_of_what_was_merged_before(tmp_path: Path) -> None:
    capture(tmp_path, ENDED, A)
    merge(tmp_path)
    assert stored(tmp_path) == {"a1", "a2"}
    capture(tmp_path, ENDED - 1, B)
    merge(tmp_path)
    assert stored(tmp_path) == {"a1", "b1"}


def test_what_no_reservoir_names_counts(tmp_path: Path) -> None:
    capture(tmp_path, ENDED, A, ["a1", "a2", "a3", "written in the last second"])
    merge(tmp_path)
    assert stored(tmp_path) == {"a1", "a2", "written in the last second"}


def test_a_living_process_may_go_on_after_its_shard_was_folded(tmp_path: Path) -> None:
    capture(tmp_path, ENDED, Held(k=2, members=[(0.3, "a1")]), ["a1", "a2"])  # a2 is not in its file yet
    merge(tmp_path, every=True)
    assert stored(tmp_path) == {"a1", "a2"}
    capture(tmp_path, ENDED, Held(k=2, members=[(0.1, "a4"), (0.2, "a5")], left=["a1", "a2"]), ["a4", "a5"], size=77)
    merge(tmp_path, every=True)
    assert stored(tmp_path) == {"a4", "a5"}


@pytest.mark.parametrize("sources", [("a", "b"), ("b", "a")], ids="-".join)
def test_datasets_of_several_hosts_become_one_sample(tmp_path: Path, sources: tuple[str, str]) -> None:
    capture(tmp_path / "a", ENDED, A)
    capture(tmp_path / "b", ENDED - 1, B)
    merge(tmp_path / "b")  # one is merged already, one is not
    for source in sources:
        report = merge(tmp_path / "all", [tmp_path / source])
        assert report.problems == []
    assert stored(tmp_path / "all") == {"a1", "b1"}
    before = bytes_of(tmp_path / "all")
    merge(tmp_path / "all", [tmp_path / source for source in sources])
    assert bytes_of(tmp_path / "all") == before


def test_calls_of_equal_content_stay_members_under_one_uuid(tmp_path: Path) -> None:
    capture(tmp_path, ENDED, Held(k=2, members=[(0.1, "a1")]), size=5)
    capture(tmp_path, ENDED - 1, Held(k=2, members=[(0.2, "b1")]), size=5)
    merge(tmp_path)
    held = Reservoirs(tmp_path).of(NAME)
    assert held is not None
    (kept,) = stored(tmp_path)
    assert held.members == [(0.1, kept), (0.2, kept)]
    capture(tmp_path, ENDED - 2, Held(k=2, members=[(0.15, "c1")]), size=9)
    merge(tmp_path)
    assert stored(tmp_path) == {kept, "c1"}


def test_a_curation_passes_over_what_was_let_go(tmp_path: Path) -> None:
    capture(tmp_path, ENDED, A)
    capture(tmp_path, ENDED - 1, B)
    (row,) = curate(tmp_path, dry_run=True).rows
    assert {kept.uuid for kept in row.kept} == {"a1", "b1"}


def test_a_file_that_cannot_be_read_is_reported_and_nothing_is_let_go(tmp_path: Path) -> None:
    capture(tmp_path, ENDED, A)
    (tmp_path / layout.RESERVOIRS / f"{HOST}.{ENDED}.1000.json").write_text("{")
    report = merge(tmp_path)
    assert "reservoirs" in str(report.problems[0])
    assert stored(tmp_path) == {"a1", "a2", "a3"}


# ---- kills ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.parametrize("step", ["before the lines", "before the shards"])
def test_a_merge_that_is_killed_goes_on_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def die(*arguments: object, **options: object) -> None:
        raise Killed

    capture(tmp_path, ENDED, A)
    merge(tmp_path)
    capture(tmp_path, ENDED - 1, B)
    with monkeypatch.context() as patch:
        if step == "before the lines":
            patch.setattr(fold_module, "write_file", die)
        else:
            patch.setattr(Path, "unlink", die)
        with pytest.raises(Killed):
            merge(tmp_path)
    assert {"a1", "b1"} <= {json.loads(line)["workload"]["uuid"] for line in lines_of(tmp_path)}
    merge(tmp_path)
    assert stored(tmp_path) == {"a1", "b1"}
    assert len(lines_of(tmp_path)) == 2


@pytest.mark.parametrize("step", ["before the lines", "before what gives way"])
def test_a_merge_of_another_dataset_that_is_killed_goes_on_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def die(*arguments: object, **options: object) -> None:
        raise Killed

    capture(tmp_path / "a", ENDED, A)
    capture(tmp_path / "b", ENDED - 1, B)
    merge(tmp_path / "all", [tmp_path / "a"])
    with monkeypatch.context() as patch:
        at = "merging.append_lines" if step == "before the lines" else "merge_samples.prune"
        patch.setattr(f"fib_plugin.dataset.{at}", die)
        with pytest.raises(Killed):
            merge(tmp_path / "all", [tmp_path / "b"])
    merge(tmp_path / "all", [tmp_path / "b"])
    assert stored(tmp_path / "all") == {"a1", "b1"}


def lines_of(root: Path) -> list[str]:
    return [line for file in (root / layout.WORKLOADS).rglob("*.jsonl") for line in file.read_text().splitlines()]
