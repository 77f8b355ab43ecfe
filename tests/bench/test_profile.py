"""Profiles: where ncu exists it is asked in the right way, and where there is no report it is said why."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from bench.bench_cases import NORM, RIGHT, dataset, solution, workload

from fib_plugin.bench import BenchResult, profile, run_bench
from fib_plugin.bench.child import Place
from fib_plugin.schema import Language

FAKE_NCU = """#!/bin/sh
# Writes the report that -o names, and what it was told beside it.
while [ $# -gt 0 ]; do
    echo "$1" >> "{log}"
    [ "$1" = "-o" ] && {{ shift; echo "$1" >> "{log}"; {act}; }}
    shift
done
cat > "{log}.order"
{end}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> list[BenchResult]:
    traces = dataset(
        tmp_path_factory.mktemp("data"),
        solution("good", RIGHT),
        solution("same", RIGHT),
        solution("bad", "def run(x, weight):\n    return x[:1]\n"),
        workloads=(workload("small", batch_size=1), workload("large", batch_size=4096)),
    )
    return run_bench(traces, threads=1, cache=cache)


def ncu(folder: Path, act: str = 'echo report > "$1.ncu-rep"', end: str = "") -> Path:
    folder.mkdir()
    file = folder / "ncu"
    file.write_text(FAKE_NCU.format(log=folder / "log", act=act, end=end))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def test_ncu_gets_each_content_that_passed_once_on_its_slowest_workload(
    results: list[BenchResult], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(ncu(tmp_path / "bin").parent), prepend=":")
    (found,) = profile.profile(results, None, Place("cuda:0", 1, cache), tmp_path / "out")
    assert (found.solution, found.definition, found.axes) == ("good", NORM.name, {"batch_size": 4096})
    assert found.report == tmp_path / "out" / "good-large.ncu-rep"
    assert found.report.exists()
    told = (tmp_path / "bin/log").read_text().split()
    assert told[told.index("--profile-from-start") + 1] == "off"
    assert told[-2:] == ["-m", "fib_plugin.bench.profiled"]
    assert '"name":"good"' in (tmp_path / "bin/log.order").read_text().replace(" ", "")


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("echo '==ERROR== ERR_NVGPUCTRPERM'; exit 1", "may not read the GPU's counters"),
        ("echo 'no such thing' >&2; exit 3", "ncu ended with 3: no such thing"),
    ],
)
def test_an_ncu_that_fails_says_why(
    end: str, words: str, results: list[BenchResult], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(ncu(tmp_path / "bin", act=":", end=end).parent), prepend=":")
    (found,) = profile.profile(results, None, Place("cuda", 1, cache), tmp_path / "out")
    assert found.report is None
    assert words in found.said


def test_without_ncu_a_gpu_has_no_report_and_it_is_said(
    results: list[BenchResult], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "find_ncu", lambda: None)
    (found,) = profile.profile(results, None, Place("cuda", 1, cache), tmp_path / "out")
    assert found.report is None
    assert "ncu is not installed" in found.said
    assert not (tmp_path / "out").exists()


def test_on_a_cpu_torch_shows_the_ops_of_a_python_solution(
    results: list[BenchResult], tmp_path: Path, cache: Path
) -> None:
    (found,) = profile.profile(results, None, Place("cpu", 1, cache), tmp_path / "out")
    assert "this device is a CPU" in found.said
    assert found.report is not None
    assert "aten::" in found.report.read_text()


def test_a_compiled_solution_on_a_cpu_gets_no_empty_report(
    results: list[BenchResult], tmp_path: Path, cache: Path
) -> None:
    one = next(result for result in results if result.solution.name == "good")
    spec = one.solution.spec.model_copy(update={"language": Language.CPP})
    compiled = type(one)(
        one.definition, one.workload, one.solution.model_copy(update={"spec": spec}), one.trace, one.measurement
    )
    (found,) = profile.profile([compiled], None, Place("cpu", 1, cache), tmp_path / "out")
    assert found.report is None
    assert "cpp kernel as one call" in found.said
