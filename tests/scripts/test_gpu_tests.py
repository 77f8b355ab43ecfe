"""The GPU test run: one line a test with its reason, and a file that dies takes no other with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

OUTCOMES = """
import pytest
pytestmark = pytest.mark.gpu

def test_right(): pass
def test_wrong(): assert 1 == 2
@pytest.mark.skip(reason="no engine here")
def test_left_out(): pass
@pytest.fixture
def broken(): raise ValueError("no such device")
def test_set_up(broken): pass
"""
DYING = "import os, pytest\npytestmark = pytest.mark.gpu\ndef test_first(): pass\ndef test_dies(): os._exit(9)\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("gpu")
    files = {"test_dying.py": DYING, "test_outcomes.py": OUTCOMES}
    for name, text in files.items():
        (folder / name).write_text(text)
    command = [sys.executable, SCRIPTS / "gpu_tests.py", "--report", folder / "out.json", *(folder / n for n in files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def test_every_outcome_is_told_with_its_reason(report: dict[str, Any]) -> None:
    found = {name.rpartition("::")[2]: test for name, test in report["tests"].items()}
    assert found["test_right"]["outcome"] == "passed"
    assert "assert 1 == 2" in found["test_wrong"]["reason"]
    assert (found["test_left_out"]["outcome"], found["test_left_out"]["reason"]) == ("skipped", "no engine here")
    assert found["test_set_up"]["outcome"] == "error"
    assert "no such device" in found["test_set_up"]["reason"]


def test_a_file_that_dies_is_an_error_and_what_came_before_is_kept(report: dict[str, Any]) -> None:
    found = {name.rpartition("/")[2].rpartition("::")[2]: test for name, test in report["tests"].items()}
    assert "code 9" in found["test_dying.py"]["reason"]
    assert found["test_first"]["outcome"] == "passed"


def test_counts_are_those_of_the_tests(report: dict[str, Any]) -> None:
    outcomes = [test["outcome"] for test in report["tests"].values()]
    assert report["counts"] == {outcome: outcomes.count(outcome) for outcome in report["counts"]}
    assert sum(report["counts"].values()) == len(outcomes)
    assert report["versions"]["python"] == sys.version.split()[0]


def test_the_package_is_laid_out_as_an_installation_has_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SCRIPTS / "lay_out.py", tmp_path / "site"], check=True, capture_output=True)
    probe = (
        "import fib_plugin, importlib.metadata as m, fib_plugin.adapters, fib_plugin.solutions\n"
        "points = m.distribution('fib-plugin').entry_points\n"
        "print(fib_plugin.__file__, sorted(p.group for p in points if p.value == 'fib_plugin.plugin:register'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", probe], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith(str(tmp_path / "site")), done.stderr
    assert "['sglang.srt.plugins', 'vllm.general_plugins']" in done.stdout
