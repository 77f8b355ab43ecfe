"""Control: orders in a file of the dataset are followed within a poll, and nothing that is in the file breaks it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fib_plugin.capture import control
from fib_plugin.capture.control import FILE, Control, give, read
from fib_plugin.schema import SchemaError


def test_without_a_file_capture_goes_on(tmp_path: Path, log: Any) -> None:
    assert Control(tmp_path / "no such folder").poll(0)
    assert log.all == []


def test_stop_and_start_are_followed_and_said_once_each(tmp_path: Path, log: Any) -> None:
    followed = Control(tmp_path)
    states = [followed.poll(0)]
    for recording in (False, True, False):
        give(tmp_path, recording)
        states += [followed.poll(0), followed.poll(0)]
    assert states == [True, False, False, True, True, False, False]
    assert [line.rpartition(": ")[2] for line in log.all if "recording" in line] == ["recording"]
    assert sum("stopped by" in line for line in log.all) == 2


def test_an_order_that_is_there_already_is_followed_from_the_first_poll(tmp_path: Path) -> None:
    give(tmp_path, False)
    assert not Control(tmp_path).poll(0)


def test_a_time_stops_it_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    followed = Control(tmp_path)
    order = give(tmp_path, True, seconds=600)
    assert followed.poll(0)
    monkeypatch.setattr(control.time, "time", lambda: order.since + 599)
    assert followed.poll(0)
    monkeypatch.setattr(control.time, "time", lambda: order.since + 601)
    assert not followed.poll(0)
    assert followed.status()["over"] == "time"


def test_a_time_that_was_over_before_the_process_began_meant_others(tmp_path: Path) -> None:
    order = give(tmp_path, True, seconds=0.001)
    while time.time() <= order.since + 0.002:
        time.sleep(0.001)
    assert Control(tmp_path).poll(0)


def test_a_number_of_workloads_stops_it_counted_from_the_order(tmp_path: Path) -> None:
    followed = Control(tmp_path)
    assert followed.poll(100)
    assert followed.left(100) is None
    give(tmp_path, True, workloads=10)
    assert followed.poll(100)
    assert followed.left(104) == 6
    assert followed.poll(109)
    assert not followed.poll(110)
    assert followed.status()["over"] == "workloads"
    give(tmp_path, True, workloads=10)
    assert followed.poll(110)
    assert not followed.poll(120)


def test_removing_the_file_takes_the_order_back(tmp_path: Path) -> None:
    followed = Control(tmp_path)
    give(tmp_path, False)
    assert not followed.poll(0)
    (tmp_path / FILE).unlink()
    assert followed.poll(0)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{", b"\xff\x00", b"[]", b'{"version": 1}', b'{"version": 9, "id": "a", "recording": true, "since": 0}'],
)
def test_garbage_changes_nothing_and_is_said_once(tmp_path: Path, log: Any, garbage: bytes) -> None:
    followed = Control(tmp_path)
    give(tmp_path, False)
    assert not followed.poll(0)
    for extra in (b"", b" "):
        (tmp_path / FILE).write_bytes(garbage + extra)
        assert not followed.poll(0)
    assert len(log.warnings) == 1
    assert "fib capture start" in log.warnings[0]
    assert FILE in followed.status()["problem"]
    give(tmp_path, True)
    assert followed.poll(0)
    assert followed.status()["problem"] == ""


def test_a_folder_in_its_place_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir(parents=True)
    assert Control(tmp_path).poll(0)
    with pytest.raises(SchemaError, match="remove it"):
        read(tmp_path)


def test_a_poll_without_a_change_does_not_read_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    followed = Control(tmp_path)
    give(tmp_path, False)
    followed.poll(0)
    monkeypatch.setattr(control, "read", lambda root: pytest.fail("read again"))
    assert not followed.poll(0)


def test_of_several_orders_at_once_one_is_followed_whole(tmp_path: Path) -> None:
    followed = Control(tmp_path)
    given = []

    def orders(recording: bool) -> None:
        for _ in range(30):
            given.append(give(tmp_path, recording))

    threads = [threading.Thread(target=orders, args=(recording,)) for recording in (True, False)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        followed.poll(0)
        assert followed.status()["problem"] == ""
    last = read(tmp_path)
    assert last in given
    assert last is not None
    assert followed.poll(0) is last.recording
    assert [path.name for path in (tmp_path / "fib").iterdir()] == ["capture.json"]


def test_a_field_of_a_newer_version_is_no_obstacle(tmp_path: Path) -> None:
    give(tmp_path, False)
    content = json.loads((tmp_path / FILE).read_bytes())
    (tmp_path / FILE).write_text(json.dumps({**content, "more": 1}))
    assert not Control(tmp_path).poll(0)
