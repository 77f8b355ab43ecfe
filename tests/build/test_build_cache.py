"""The build cache under several processes, kills and damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from build_cases import DEFINITION, HIDDEN, make_cpp

from fib_plugin.build import BuildError, build
from fib_plugin.build.cache import BuildCache


def writer(content: str, calls: list[str]) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        calls.append(content)
        (folder / "sub").mkdir()
        (folder / "sub" / "product").write_text(content)

    return fill


def test_a_key_is_filled_once(tmp_path: Path) -> None:
    calls: list[str] = []
    folders = [BuildCache(tmp_path).folder("key", writer(str(turn), calls)) for turn in range(2)]
    assert calls == ["0"]
    assert (folders[1] / "sub" / "product").read_text() == "0"


def test_a_fill_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise BuildError("no")

    with pytest.raises(BuildError):
        BuildCache(tmp_path).folder("key", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]


@pytest.mark.parametrize("damage", ["cut", "lost", "added", "unsealed"])
def test_a_damaged_folder_is_made_again(damage: str, tmp_path: Path) -> None:
    calls: list[str] = []
    folder = BuildCache(tmp_path).folder("key", writer("whole", calls))
    product = folder / "sub" / "product"
    if damage == "cut":
        product.write_text("wh")
    elif damage == "lost":
        product.unlink()
    elif damage == "added":
        (folder / "sub" / "more.py").write_text("evil = True")
    else:
        (folder / "complete.json").unlink()
    assert (BuildCache(tmp_path).folder("key", writer("whole", calls)) / "sub" / "product").read_text() == "whole"
    assert len(calls) == 2
    assert not (folder / "sub" / "more.py").exists()


def test_bytecode_beside_the_sources_is_no_damage(tmp_path: Path) -> None:
    calls: list[str] = []
    folder = BuildCache(tmp_path).folder("key", writer("whole", calls))
    (folder / "sub" / "__pycache__").mkdir()
    (folder / "sub" / "__pycache__" / "x.pyc").write_bytes(b"x")
    BuildCache(tmp_path).folder("key", writer("whole", calls))
    assert len(calls) == 1


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BuildError, match="FIB_CACHE_PATH"):
        BuildCache(tmp_path / "file").folder("key", writer("x", []))


_FILL = """
import sys, time
from pathlib import Path
from fib_plugin.build.cache import BuildCache

root, marks, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def fill(folder):
    with marks.open("a") as file:
        file.write("fill\\n")
    (folder / "first").write_text("1")
    time.sleep(seconds)
    (folder / "second").write_text("2")

folder = BuildCache(root).folder("key", fill)
assert (folder / "first").read_text() + (folder / "second").read_text() == "12"
"""


def start(root: Path, marks: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _FILL, str(root), str(marks), str(seconds)])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_four_processes_at_once_fill_once_and_all_get_it(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    processes = [start(tmp_path / "cache", marks, 0.5) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0, 0]
    assert marks.read_text() == "fill\n"


def test_a_killed_fill_leaves_nothing_that_counts_as_complete(tmp_path: Path) -> None:
    root, marks = tmp_path / "cache", tmp_path / "marks"
    process = start(root, marks, 600)
    wait_for(lambda: bool(list(root.glob(".key.*/first"))))
    process.kill()
    process.wait()
    assert not (root / "key").exists()
    assert start(root, marks, 0).wait(timeout=60) == 0
    assert marks.read_text() == "fill\nfill\n"
    assert not list(root.glob(".key.*"))


def test_a_compiling_process_can_be_killed_and_the_next_one_compiles(tmp_path: Path) -> None:
    source = (
        "from build_cases import DEFINITION, make_cpp\nfrom fib_plugin.build import build\n"
        "from pathlib import Path\nimport sys\nbuild(make_cpp(), DEFINITION, Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", source, str(tmp_path)], env=environment)
    wait_for(lambda: bool(list(tmp_path.glob("build/.*/scratch"))))
    process.send_signal(signal.SIGKILL)
    process.wait()
    x = torch.randn(2, HIDDEN)
    assert torch.equal(build(make_cpp(), DEFINITION, tmp_path).call(x, torch.ones(HIDDEN)), x + 1)
