"""The dataset benchmark: its dataset is one that all tools can read, its last line holds what it promises."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fib_plugin.dataset import TraceSet, current_environment, load_measurements, validate
from fib_plugin.dispatch.catalog import Catalog

SCRIPTS = Path(__file__).parents[2] / "scripts"
KEYS = {"cold_s", "warm_ms", "rss_mib", "flashinfer_bench_cold_s", "ratio", "trace_set_cold_s"}

#: What another tool's package looks like from here.
THEIRS = """
from pathlib import Path

class TraceSet:
    @classmethod
    def from_path(cls, root):
        made = cls()
        made.definitions = {file.stem: file for file in Path(root, "definitions").rglob("*.json")}
        made.traces = {file: file.read_text().splitlines() for file in Path(root, "traces").rglob("*.jsonl")}
        return made
"""


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("made_dataset", SCRIPTS / "made_dataset.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(generator: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "dataset"
    assert generator.make(root, generator.Size(20, 61, 305)) == generator.Size(20, 60, 300)
    return root


def bench(*arguments: object) -> tuple[list[str], dict[str, Any]]:
    command = [sys.executable, SCRIPTS / "bench_dataset.py", "--rounds", 1, "--definitions", 6, *arguments]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    *told, last = done.stdout.splitlines()
    return told, json.loads(last)


def test_the_dataset_is_valid_and_as_large_as_asked(made: Path) -> None:
    traces = TraceSet.from_path(made)
    assert len(traces.definitions) == 20
    assert sum(map(len, traces.solutions.values())) == 60
    assert sum(map(len, traces.traces.values())) == len(load_measurements(made)) == 300
    # Blobs are not made, since reading never opens them: integer inputs are said to be random.
    assert validate(made).problems == []


def test_some_solutions_win_and_some_do_not(made: Path, tmp_path: Path) -> None:
    catalog = Catalog.open(made, tmp_path, current_environment())
    told = " ".join(catalog.explain().values())
    assert catalog.problems == []
    assert catalog.proven()
    assert "fib_1__" in told or "fib_2__" in told
    assert any(catalog.choose(name, (2**at, 0)).winner is None for name in catalog.names() for at in range(5))


def test_the_same_dataset_is_made_at_every_run(generator: ModuleType, made: Path, tmp_path: Path) -> None:
    generator.make(tmp_path, generator.Size(20, 61, 305))
    for file in (file for file in made.rglob("*.json*") if not file.name.startswith(".")):
        assert (tmp_path / file.relative_to(made)).read_bytes() == file.read_bytes()


def test_the_last_line_has_the_numbers_and_null_for_a_package_that_is_not_there() -> None:
    if importlib.util.find_spec("flashinfer_bench") is not None:
        pytest.skip("flashinfer-bench is installed")
    told, result = bench("--solutions", 12, "--traces", 24)
    assert set(result) >= KEYS
    assert [result[key] for key in ("definitions", "solutions", "traces", "rounds")] == [6, 12, 24, 1]
    assert (result["flashinfer_bench_cold_s"], result["ratio"]) == (None, None)
    assert result["warm_ms"] > 0
    assert told[0] == "6 definitions, 12 solutions, 24 traces"


def test_another_package_is_measured_on_the_same_folder(tmp_path: Path) -> None:
    package = tmp_path / "flashinfer_bench" / "data"
    package.mkdir(parents=True)
    (tmp_path / "flashinfer_bench" / "__init__.py").write_text("raise ImportError('a GPU is wanted')")
    (package / "__init__.py").touch()
    (package / "trace_set.py").write_text(THEIRS)
    result = bench("--solutions", 12, "--traces", 24, "--flashinfer-bench", tmp_path)[1]
    assert result["flashinfer_bench_cold_s"] > 0
    assert result["ratio"] == pytest.approx(result["flashinfer_bench_cold_s"] / result["cold_s"], rel=0.3)


def test_a_folder_without_the_package_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        bench("--flashinfer-bench", tmp_path)
    assert "unpacked wheel" in failed.value.stderr
