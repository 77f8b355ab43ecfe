"""Counts and status files follow the process without being written for nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fib_plugin.capture.loss import Loss
from fib_plugin.capture.pulse import Pulse
from fib_plugin.dataset import axes_key, load_counts


class Counting:
    """A snapshot whose parts a test sets."""

    def __init__(self) -> None:
        self.parts: dict[str, Any] | None = {}
        self.notices: list[Loss] = []

    def pulse(self, root: Path) -> Pulse:
        return Pulse(root / "data", root / "status", "host", 7, lambda: self.parts, self.notice)

    def notice(self, reason: Loss, error: object) -> None:
        self.notices.append(reason)


def only(folder: Path) -> Path:
    (path,) = folder.glob("*.json")
    return path


def test_counts_are_read_by_the_dataset(tmp_path: Path) -> None:
    side = Counting()
    side.parts = {"calls": {"gemm_n8_k4": {axes_key({"M": 4}): 12}}}
    side.pulse(tmp_path).beat()
    assert load_counts(tmp_path / "data") == {"gemm_n8_k4": {'{"M":4}': 12}}
    assert only(tmp_path / "data/fib/counts").name.startswith("host.7.")


def test_nothing_is_written_while_there_is_nothing_to_say(tmp_path: Path) -> None:
    side = Counting()
    pulse = side.pulse(tmp_path)
    for parts in (None, {}, {"calls": {}, "status": {}}):
        side.parts = parts
        pulse.beat()
    assert list(tmp_path.iterdir()) == []


def test_unchanged_files_are_left_alone(tmp_path: Path) -> None:
    side = Counting()
    side.parts = {"calls": {"d": {"{}": 1}}, "status": {"rank": 0}}
    pulse = side.pulse(tmp_path)
    pulse.beat()
    before = [only(tmp_path / folder).stat().st_ino for folder in ("data/fib/counts", "status")]
    pulse.beat()
    assert [only(tmp_path / folder).stat().st_ino for folder in ("data/fib/counts", "status")] == before


def test_an_update_time_of_the_engines_side_is_no_change(tmp_path: Path) -> None:
    side = Counting()
    pulse = side.pulse(tmp_path)
    side.parts = {"status": {"rank": 0, "updated": 1}}
    pulse.beat()
    inode = only(tmp_path / "status").stat().st_ino
    side.parts = {"status": {"rank": 0, "updated": 2}}
    pulse.beat()
    assert only(tmp_path / "status").stat().st_ino == inode


def test_a_changed_status_replaces_the_file(tmp_path: Path) -> None:
    side = Counting()
    pulse = side.pulse(tmp_path)
    for calls in (1, 2):
        side.parts = {"status": {"ops": {"vllm.gemm": {"calls": calls}}}}
        pulse.beat()
    content = json.loads(only(tmp_path / "status").read_text())
    assert content["ops"] == {"vllm.gemm": {"calls": 2}}
    assert content["version"] == 1
    assert (content["host"], content["pid"]) == ("host", 7)
    assert content["started"] <= content["updated"]


def test_files_removed_by_others_come_back(tmp_path: Path) -> None:
    side = Counting()
    side.parts = {"calls": {"d": {"{}": 1}}, "status": {"rank": 0}}
    pulse = side.pulse(tmp_path)
    pulse.beat()
    for folder in ("data/fib/counts", "status"):
        only(tmp_path / folder).unlink()
    pulse.beat()
    only(tmp_path / "data/fib/counts")
    only(tmp_path / "status")


def test_the_last_beat_notes_an_orderly_end(tmp_path: Path) -> None:
    side = Counting()
    side.parts = {"status": {"rank": 0}}
    pulse = side.pulse(tmp_path)
    pulse.beat()
    pulse.beat(last=True)
    assert json.loads(only(tmp_path / "status").read_text())["ended"] > 0


def test_a_snapshot_that_raises_is_noticed_and_the_next_one_counts(tmp_path: Path) -> None:
    notices: list[Loss] = []
    answers = [lambda: 1 / 0, lambda: {"status": {"rank": 0}}]
    pulse = Pulse(tmp_path, tmp_path / "status", "host", 7, lambda: answers.pop(0)(), lambda r, e: notices.append(r))
    pulse.beat()
    assert notices == [Loss.SNAPSHOT_FAILED]
    pulse.beat()
    only(tmp_path / "status")


def test_content_that_json_cannot_hold_spoils_only_its_own_file(tmp_path: Path) -> None:
    side = Counting()
    side.parts = {"calls": {"d": object()}, "status": {"rank": 0}}
    side.pulse(tmp_path).beat()
    assert side.notices == [Loss.SNAPSHOT_FAILED]
    only(tmp_path / "status")
