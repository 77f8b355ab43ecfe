"""Status files of processes that ended long ago go; everybody else's stay."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from fib_plugin.capture.lineage import lineage
from fib_plugin.capture.pulse import Pulse
from fib_plugin.capture.pulse_prune import prune

DAY = 86400
GONE = "99999999.1"


def status(folder: Path, name: str, days: float, line: list[str] | None = None) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps({"lineage": [GONE] if line is None else line}))
    os.utime(path, (time.time() - days * DAY,) * 2)
    return name


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_process_that_ended_more_than_the_days_ago_goes(tmp_path: Path) -> None:
    status(tmp_path, "host.1.100.json", 8)
    kept = status(tmp_path, "host.2.100.json", 6)
    assert prune(tmp_path, "host", 7) == 1
    assert names(tmp_path) == {kept}


@pytest.mark.parametrize("name", ["other.1.100.json", "host2.1.100.json", "host.1.json", "host.x.100.json", "mine.txt"])
def test_what_is_not_this_hosts_stays(tmp_path: Path, name: str) -> None:
    status(tmp_path, name, 100)
    assert prune(tmp_path, "host", 7) == 0
    assert names(tmp_path) == {name}


def test_a_silent_process_that_lives_stays(tmp_path: Path) -> None:
    status(tmp_path, "host.1.100.json", 100, lineage())
    assert prune(tmp_path, "host", 7, most=0) == 0


def test_the_ended_workers_of_a_running_engine_stay(tmp_path: Path) -> None:
    status(tmp_path, "host.1.100.json", 100, lineage())
    status(tmp_path, "host.2.100.json", 100, [GONE, *lineage()])
    assert prune(tmp_path, "host", 7) == 0


def test_what_an_old_shell_started_goes_although_the_shell_runs(tmp_path: Path) -> None:
    status(tmp_path, "host.2.100.json", 100, [GONE, *lineage()])
    assert prune(tmp_path, "host", 7) == 1


def test_beyond_the_most_the_oldest_go(tmp_path: Path) -> None:
    files = [status(tmp_path, f"host.{number}.100.json", number / 24) for number in range(1, 11)]
    assert prune(tmp_path, "host", 7, most=4) == 6
    assert names(tmp_path) == set(files[:4])


def test_files_that_a_kill_left_half_written_go_after_an_hour(tmp_path: Path) -> None:
    status(tmp_path, ".host.1.100.json.17.tmp", 1)
    kept = status(tmp_path, ".host.2.100.json.18.tmp", 0)
    assert prune(tmp_path, "host", 7) == 1
    assert names(tmp_path) == {kept}


def test_a_broken_file_goes_like_any_other_and_stops_nothing(tmp_path: Path) -> None:
    for name in ("host.1.100.json", "host.2.100.json"):
        status(tmp_path, name, 100)
    (tmp_path / "host.1.100.json").write_bytes(b"\xff not json")
    os.utime(tmp_path / "host.1.100.json", (0, 0))
    assert prune(tmp_path, "host", 7) == 2


def test_a_folder_that_is_not_there_is_nothing_to_prune(tmp_path: Path) -> None:
    assert prune(tmp_path / "none", "host", 7) == 0


def test_the_first_status_of_a_process_prunes(tmp_path: Path) -> None:
    status(tmp_path, "host.1.100.json", 8)
    kept = status(tmp_path, "host.2.100.json", 6)
    pulse = Pulse(tmp_path / "data", tmp_path, "host", 7, lambda: {"status": {"rank": "0"}}, lambda *_: None, 7)
    pulse.beat()
    assert kept in names(tmp_path)
    assert "host.1.100.json" not in names(tmp_path)
    assert len(names(tmp_path)) == 2
