"""Selection, resuming, displaced ops, workloads that cannot be run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from bench_cases import ADD_NORM, NORM, RIGHT, SAMPLER, dataset, solution, workload

from fib_plugin.bench import BenchError, BenchResult, Progress, run_bench
from fib_plugin.build import shipped
from fib_plugin.dataset import TraceSet, axes_key
from fib_plugin.schema import SafetensorsInput, Trace


def statuses(results: list[BenchResult]) -> dict[tuple[str, str], str]:
    return {(result.solution.name, result.workload.uuid): result.status.value for result in results}


def test_resume_runs_only_what_was_not_measured_before(tmp_path: Path, cache: Path) -> None:
    traces = dataset(tmp_path, solution("first", RIGHT))
    run_bench(traces, cache=cache)
    traces.add_workloads([workload("w2", batch_size=2)])
    traces.add_solution(solution("second", RIGHT + "\n# another\n"))
    again = run_bench(TraceSet.from_path(tmp_path), resume=True, cache=cache)
    assert set(statuses(again)) == {("first", "w2"), ("second", "w1"), ("second", "w2")}
    assert run_bench(TraceSet.from_path(tmp_path), resume=True, cache=cache) == []


def test_resume_measures_again_once_there_is_an_op_to_compare_with(tmp_path: Path, cache: Path) -> None:
    traces = dataset(tmp_path, solution("candidate", RIGHT))
    (alone,) = run_bench(traces, cache=cache)
    assert (alone.measurement.baseline, alone.measurement.ratio, alone.measurement.ratio_low) == ("", 0.0, 0.0)
    assert alone.measurement.timing == "plain"
    traces.add_solution(solution("vllm_9_rmsnorm", NORM.reference, author="engine"))
    again = run_bench(TraceSet.from_path(tmp_path), resume=True, cache=cache)
    assert {r.solution.name: r.measurement.baseline for r in again} == {
        "candidate": "vllm_9_rmsnorm",
        "vllm_9_rmsnorm": "vllm_9_rmsnorm",
    }


@pytest.mark.parametrize(
    "source",
    ["import no_such_engine\n", "def run(x, weight):\n    raise OSError('not here')\n", "import os\nos._exit(1)\n"],
)
def test_a_displaced_op_that_does_not_run_here_is_no_yardstick(source: str, tmp_path: Path, cache: Path) -> None:
    traces = dataset(tmp_path, solution("candidate", RIGHT), solution("engine_op", source, author="engine"))
    (result,) = run_bench(traces, solutions=["candidate"], cache=cache)
    assert (result.status.value, result.measurement.baseline, result.measurement.ratio) == ("PASSED", "", 0.0)


def test_globs_op_type_and_author_select(tmp_path: Path, cache: Path) -> None:
    traces = dataset(tmp_path, solution("one_a", RIGHT), solution("one_b", RIGHT), solution("two", RIGHT, author="b"))
    assert {s for s, _ in statuses(run_bench(traces, solutions=["one_*"], cache=cache))} == {"one_a", "one_b"}
    assert {s for s, _ in statuses(run_bench(traces, author="b", cache=cache))} == {"two"}
    with pytest.raises(BenchError, match="no definition"):
        run_bench(traces, op_type="gemm", cache=cache)
    with pytest.raises(BenchError, match="no solution"):
        run_bench(traces, solutions=["zzz"], cache=cache)


def test_solutions_for_other_hardware_are_left_out_and_named(tmp_path: Path, cache: Path) -> None:
    other = solution("for_a_gpu", RIGHT)
    other = other.model_copy(update={"spec": other.spec.model_copy(update={"target_hardware": ["NVIDIA_H100"]})})
    traces = dataset(tmp_path, solution("candidate", RIGHT), other)
    told: list[Progress] = []
    results = run_bench(traces, progress=told.append, cache=cache)
    assert [result.solution.name for result in results] == ["candidate"]
    assert any("for_a_gpu" in progress.problem for progress in told)


def test_the_most_often_called_workloads_come_first(tmp_path: Path, cache: Path) -> None:
    traces = dataset(
        tmp_path,
        solution("candidate", RIGHT),
        workloads=(workload("rare", batch_size=1), workload("frequent", batch_size=2)),
    )
    counts = tmp_path / "fib" / "counts" / "host-1.json"
    counts.parent.mkdir(parents=True)
    calls = {NORM.name: {axes_key({"batch_size": 1}): 3, axes_key({"batch_size": 2}): 90}}
    content = {"version": 1, "host": "host", "pid": 1, "started": "now", "calls": calls}
    counts.write_bytes(msgspec.json.encode(content))
    assert list(statuses(run_bench(traces, workloads=1, cache=cache))) == [("candidate", "frequent")]


def test_a_workload_whose_data_are_lost_is_left_out_with_its_reason(tmp_path: Path, cache: Path) -> None:
    lost = workload("lost", batch_size=2)
    saved = SafetensorsInput(path="blob/workloads/gone.safetensors", tensor_key="x")
    broken = lost.workload.model_copy(update={"inputs": {**lost.workload.inputs, "weight": saved}})
    traces = dataset(
        tmp_path,
        solution("candidate", RIGHT),
        workloads=(Trace(definition=NORM.name, workload=broken), workload("whole", batch_size=2)),
    )
    told: list[Progress] = []
    results = run_bench(traces, progress=told.append, cache=cache)
    assert list(statuses(results)) == [("candidate", "whole")]
    assert ["gone.safetensors" in progress.problem for progress in told if progress.problem] == [True]
    assert (told[-1].done, told[-1].total) == (2, 2)


def test_an_op_that_may_write_in_place_must_leave_an_output_there(tmp_path: Path, cache: Path) -> None:
    source = (
        "import torch\n\n\ndef run(x, residual, weight):\n    residual.add_(x)\n"
        "    x.copy_(torch.nn.functional.rms_norm(residual, (64,), weight, 1e-5))\n    return x, residual\n"
    )
    scribbles = source.replace("return x, residual", "out = x.clone()\n    x.zero_()\n    return out, residual")
    traces = dataset(
        tmp_path,
        solution("in_place", source, ADD_NORM),
        solution("scribbles", scribbles, ADD_NORM),
        workloads=(workload("w", ADD_NORM, batch_size=3),),
        definition=ADD_NORM,
    )
    results = {result.solution.name: result for result in run_bench(traces, cache=cache)}
    assert results["in_place"].status.value == "PASSED", results["in_place"].log
    assert results["scribbles"].status.value == "INCORRECT_NUMERICAL"
    assert "input hidden_states was overwritten with what is none of the outputs" in results["scribbles"].log


def test_samplers_are_judged_by_their_distribution(tmp_path: Path, cache: Path) -> None:
    unfiltered = "import torch\n\n\ndef run(probs, top_k, top_p):\n    return torch.multinomial(probs, 1).squeeze(-1)\n"
    traces = dataset(
        tmp_path,
        solution("right", SAMPLER.reference, SAMPLER),
        solution("argmax", "def run(probs, top_k, top_p):\n    return probs.argmax(-1)\n", SAMPLER),
        solution("unfiltered", unfiltered, SAMPLER),
        solution(
            "seeded",
            SAMPLER.reference.replace("    values, order", "    torch.manual_seed(0)\n    values, order"),
            SAMPLER,
        ),
        workloads=(workload("w", SAMPLER, batch_size=3),),
        definition=SAMPLER,
    )
    results = {result.solution.name: result for result in run_bench(traces, cache=cache)}
    assert {name: result.status.value for name, result in results.items()} == {
        "right": "PASSED",
        "argmax": "INCORRECT_NUMERICAL",
        "unfiltered": "INCORRECT_NUMERICAL",
        "seeded": "INCORRECT_NUMERICAL",
    }
    assert "do not follow the distribution" in results["argmax"].log
    assert "is not among those" in results["unfiltered"].log


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs an adapter, for this process and its children, that ships a text as an engine's op."""
    site = tmp_path / "site"

    def install(text: str) -> None:
        folder = site / "some_adapter" / "displaced"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("ADAPTERS = ()\n")
        (folder / "op.py").write_text(text)
        information = site / "some_adapter-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: some-adapter\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text("[fib_plugin.adapters]\nsome = some_adapter:ADAPTERS\n")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setenv("PYTHONPATH", str(site))
        shipped._texts.cache_clear()

    yield install
    shipped._texts.cache_clear()


@pytest.mark.parametrize("installed", [True, False])
def test_only_what_an_adapter_ships_may_prepare_untimed(
    tmp_path: Path, cache: Path, ship: Callable[[str], None], installed: bool
) -> None:
    prepared = RIGHT.replace("def run(x, weight):", "def run(x, weight):\n    time.sleep(0.02)").replace(
        "import torch", "import time\n\nimport torch"
    )
    prepared += "\n\ndef setup(x, weight):\n    time.sleep(0.02)\n    return lambda: x + weight\n"
    traces = dataset(
        tmp_path, solution("engine_op", prepared, author="engine"), solution("claims_setup", prepared + "# mine\n")
    )
    if installed:
        ship(prepared)
    results = {result.solution.name: result.measurement for result in run_bench(traces, cache=cache)}
    assert ((results["engine_op"].solution_ms or 0) < 10) is installed
    assert (results["claims_setup"].solution_ms or 0) > 10, "only the engine's own op may prepare untimed"
    took = results["claims_setup"].baseline_setup_ms
    assert (took is not None) is installed, "what an op prepares is on record, apart from its time"
    assert took is None or 19 < took < 2000


def test_an_engines_op_may_lack_the_later_outputs_but_a_solution_may_not(tmp_path: Path, cache: Path) -> None:
    source = "import torch\n\n\ndef run(x, residual, weight):\n"
    source += "    return torch.nn.functional.rms_norm(x + residual, (64,), weight, 1e-5)\n"
    traces = dataset(
        tmp_path,
        solution("engine_op", source, ADD_NORM, author="engine"),
        solution("candidate", source + "# mine\n", ADD_NORM),
        workloads=(workload("w", ADD_NORM, batch_size=3),),
        definition=ADD_NORM,
    )
    assert statuses(run_bench(traces, cache=cache)) == {
        ("engine_op", "w"): "PASSED",
        ("candidate", "w"): "RUNTIME_ERROR",
    }
