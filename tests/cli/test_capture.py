"""`fib capture`: orders reach the engines on the dataset, and what it prints says who follows and who cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner, Result

from fib_plugin.capture.control import FILE, Control, read
from fib_plugin.capture.lineage import lineage
from fib_plugin.cli.capture import app

sys.path.insert(0, str(Path(__file__).parents[1] / "board"))
from serving_cases import ended_pid, report


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dataset").mkdir()
    return tmp_path / "dataset"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache/status"


def fib(root: Path, command: str, *options: str) -> Result:
    arguments = [command, "--dataset", str(root), "--cache", str(root.parent / "cache"), *options]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "240"})


def fib_json(root: Path, command: str, *options: str, code: int = 0) -> dict[str, Any]:
    result = fib(root, command, "--json", *options)
    assert result.exit_code == code, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def engine(folder: Path, root: Path, **changes: Any) -> Path:
    """A living process that traces into the dataset."""
    capture = {
        "seen": 12_000,
        "written": 34,
        "bytes": 5 << 20,
        "queued": 2,
        "dropped": {"queue_full": 3},
        "errors": {"quota": 1},
        "recording": True,
        "dataset": str(root),
        "order": None,
        "over": "",
        "waiting": 7,
        "policy": {
            "definitions": {
                "gemm_n8_k4": {
                    "dump": "structural",
                    "keep": "reservoir",
                    "k": 64,
                    "sample_rate": 0.1,
                    "taken": 99,
                    "written": 30,
                    "skipped": {"workload_quota": 5},
                }
            },
            "unused_rules": ["op_types.gmem"],
            "quota": {"workloads_per_definition": 10, "bytes": None},
        },
        **changes.pop("capture", {}),
    }
    switches = {"apply": False, "tracing": True, **changes.pop("switches", {})}
    return report(folder, capture=capture, switches=switches, lineage=lineage(), **changes)


@pytest.fixture
def follower(folder: Path, root: Path) -> Iterator[Path]:
    """An engine that follows orders, as Recorder does once a second."""
    path = engine(folder, root)
    done = threading.Event()

    def run() -> None:
        followed, content = Control(root), json.loads(path.read_text())
        while not done.wait(0.02):
            recording = followed.poll(0)
            content["capture"].update(followed.status(), recording=recording)
            part = path.with_suffix(".tmp")
            part.write_text(json.dumps(content))
            os.replace(part, path)

    thread = threading.Thread(target=run)
    thread.start()
    yield path
    done.set()
    thread.join()


# ---- start and stop -------------------------------------------------------------------------------------------------


def test_stop_and_start_are_followed_by_the_engine(root: Path, follower: Path) -> None:
    stopped = fib(root, "stop")
    assert stopped.exit_code == 0, stopped.output
    assert "does not record" in stopped.stdout
    started = fib_json(root, "start")
    (process,) = started["processes"]
    assert (process["heard"], process["recording"], process["pid"]) == (True, True, os.getpid())
    assert started["problems"] == []


def test_start_takes_a_time_and_a_number(root: Path) -> None:
    before = time.time()
    order = fib_json(root, "start", "--for", "1h30m", "--requests", "500")["order"]
    assert before + 5400 <= order["until"] <= time.time() + 5400
    assert order["workloads"] == 500
    assert read(root) == msgspec.convert(order, type(read(root)))


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("1d 1s", 86401)])
def test_times_have_units(root: Path, text: str, seconds: float) -> None:
    order = fib_json(root, "start", "--for", text)["order"]
    assert order["until"] - order["since"] == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["soon", "10 potatoes", "m", "0", "-5m"])
def test_what_is_no_time_is_refused_and_no_order_given(root: Path, text: str) -> None:
    assert fib(root, "start", f"--for={text}").exit_code == 2
    assert not (root / FILE).exists()


def test_an_engine_with_tracing_off_cannot_be_started_and_is_told_how(root: Path, folder: Path) -> None:
    report(folder, lineage=lineage())
    result = fib(root, "start", "--wait", "0")
    assert result.exit_code == 1
    assert "FIB_ENABLE_TRACING=1" in result.stdout
    assert f" {os.getpid()} " in result.stdout


def test_an_engine_that_does_not_follow_is_a_problem(root: Path, folder: Path) -> None:
    engine(folder, root)
    content = fib_json(root, "stop", "--wait", "0.2", code=1)
    assert "has not followed within 0.2 s" in content["problems"][0]
    assert not content["processes"][0]["heard"]


def test_engines_on_other_datasets_and_ended_ones_are_not_waited_for(root: Path, folder: Path, tmp_path: Path) -> None:
    engine(folder, tmp_path / "elsewhere")
    engine(folder, root, pid=ended_pid(), ended=time.time())
    content = fib_json(root, "stop")
    assert content["processes"] == []
    assert content["problems"] == []


def test_without_an_engine_the_order_holds_for_later_ones(root: Path) -> None:
    result = fib(root, "stop")
    assert result.exit_code == 0
    assert "holds for those that are started later" in result.stdout
    assert not Control(root).poll(0)


def test_a_folder_that_is_no_dataset_of_anyone_is_refused(tmp_path: Path) -> None:
    result = fib(tmp_path / "typo", "stop")
    assert result.exit_code == 1
    assert "no dataset here" in result.output
    assert not (tmp_path / "typo").exists()


def test_an_order_that_cannot_be_written_is_a_clear_error(root: Path) -> None:
    (root / "fib").write_text("a file in the way")
    content = fib_json(root, "stop", code=1)
    assert "cannot be written" in content["problems"][0]


def test_two_commands_at_once_leave_one_whole_order(root: Path) -> None:
    program = "from fib_plugin.cli.capture import app; app()"
    arguments = [sys.executable, "-c", program, "{}", "--dataset", str(root), "--cache", str(root / "none")]
    commands = [[a.format(word) for a in arguments] for word in ("start", "stop")]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait() for process in running] == [0, 0]
    assert read(root) is not None
    assert [path.name for path in (root / "fib").iterdir()] == ["capture.json"]


# ---- status ---------------------------------------------------------------------------------------------------------


def test_status_shows_what_was_written_lost_and_why_the_policies_and_the_quotas(root: Path, folder: Path) -> None:
    engine(folder, root)
    output = fib(root, "status").stdout
    for words in (
        "recording",
        "12,000",
        "34",
        "5.0",
        "reservoir",
        "0.1",
        "workload_quota 5",
        "quota workloads_per_definition: raise it",
        "dropped: 3 queue_full",
        "errors: 1 quota",
        "7 sizes are recorded at their next call",
        "workloads_per_definition 10, bytes none",
        "no call has come under the rule op_types.gmem",
        "none, engines record as long as tracing is on",
    ):
        assert words in output, words


def test_status_says_why_a_process_does_not_record(root: Path, folder: Path) -> None:
    engine(folder, root, capture={"recording": False, "over": "time"})
    assert "stopped: its time is over" in fib(root, "status").stdout


def test_status_as_json_has_everything(root: Path, folder: Path) -> None:
    engine(folder, root)
    fib(root, "stop", "--wait", "0")
    content = fib_json(root, "status")
    assert content["order"]["recording"] is False
    (process,) = content["processes"]
    assert process["capture"]["policy"]["definitions"]["gemm_n8_k4"]["taken"] == 99
    assert not process["heard"]


def test_status_names_a_broken_order_and_a_broken_report(root: Path, folder: Path) -> None:
    (root / "fib").mkdir()
    (root / FILE).write_text("{")
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("{")
    problems = " ".join(fib_json(root, "status")["problems"])
    assert FILE in problems
    assert "a.json" in problems


def test_the_groups_name_is_known_to_fib() -> None:
    from fib_plugin.cli import app as whole

    names = [group.name for group in whole.registered_groups]
    assert isinstance(whole, typer.Typer)
    assert "capture" in names
