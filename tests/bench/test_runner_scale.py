"""What a run leaves out and shares out: equal content, other evaluation configs, a budget, several devices."""

from __future__ import annotations

from pathlib import Path

from bench_cases import NORM, RIGHT, dataset, solution, workload

from fib_plugin.bench import Progress, run_bench
from fib_plugin.dataset import TraceSet, load_measurements


def test_equal_content_is_run_once_and_recorded_under_each_name(tmp_path: Path, cache: Path) -> None:
    told: list[Progress] = []
    traces = dataset(tmp_path, solution("a", RIGHT), solution("b", RIGHT))
    results = run_bench(traces, progress=told.append, cache=cache)
    assert [result.solution.name for result in results] == ["a", "b"]
    assert [m.solution for m in load_measurements(tmp_path)] == ["a", "b"]
    assert not any(one.doing.endswith(": b") for one in told)


def test_another_evaluation_config_is_measured_again(tmp_path: Path, cache: Path) -> None:
    traces = dataset(tmp_path, solution("candidate", RIGHT))
    run_bench(traces, cache=cache)
    assert run_bench(traces, resume=True, cache=cache) == []
    file = tmp_path / "fib" / "evaluation" / NORM.op_type / f"{NORM.name}.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("atol: 0.02\n")
    assert len(run_bench(traces, resume=True, cache=cache)) == 1
    assert run_bench(traces, resume=True, cache=cache) == []


def test_a_spent_budget_starts_nothing_and_says_how_much_is_left(tmp_path: Path, cache: Path) -> None:
    traces = dataset(tmp_path, solution("a", RIGHT), solution("b", RIGHT + "# b\n"))
    told: list[Progress] = []
    assert run_bench(traces, progress=told.append, cache=cache, budget=0.0) == []
    assert "2 evaluations" in told[-1].problem
    assert "--resume" in told[-1].problem
    assert (told[-1].done, told[-1].total) == (2, 2)


def test_several_devices_share_the_work_and_each_evaluation_is_written_once(tmp_path: Path, cache: Path) -> None:
    names = ("w1", "w2", "w3")
    traces = dataset(
        tmp_path,
        solution("a", RIGHT),
        solution("bad", "def run(x, weight):\n    return x[:1]\n"),
        workloads=tuple(workload(name, batch_size=index + 1) for index, name in enumerate(names)),
    )
    results = run_bench(traces, threads=1, cache=cache, devices=("cpu", "cpu"))
    wanted = sorted((solution, name) for solution in ("a", "bad") for name in names)
    assert sorted((result.solution.name, result.workload.uuid) for result in results) == wanted
    assert sorted((m.solution, m.workload) for m in load_measurements(tmp_path)) == wanted


def test_candidates_need_not_be_in_the_dataset_and_need_not_be_saved(tmp_path: Path, cache: Path) -> None:
    traces = dataset(tmp_path, solution("kept", RIGHT), solution("engine_op", NORM.reference, author="engine"))
    mine = solution("mine", RIGHT + "# mine\n")
    (result,) = run_bench(traces, cache=cache, candidates=[mine], save=False)
    assert (result.status.value, result.measurement.baseline) == ("PASSED", "engine_op")
    assert load_measurements(tmp_path) == []
    assert not TraceSet.from_path(tmp_path).traces.get(NORM.name)
