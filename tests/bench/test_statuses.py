"""Each status comes from a solution that really fails that way, in one run that survives them all."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_cases import HIDDEN, NORM, RIGHT, RIGHT_INTO, dataset, solution, workload

from fib_plugin.bench import BenchResult, run_bench
from fib_plugin.dataset import TraceSet, load_measurements

_RETURN = "import torch\n\n\ndef run(x, weight):\n    right = torch.nn.functional.rms_norm(x, (64,), weight, 1e-5)\n"
_BROKEN_CPP = "void run( { this is no C++"

CANDIDATES = {
    "right": solution("right", RIGHT),
    "right_into": solution("right_into", RIGHT_INTO, into=True),
    "engine": solution("engine", NORM.reference, author="engine"),
    "wrong_shape": solution("wrong_shape", _RETURN + "    return right[:1]\n"),
    "wrong_dtype": solution("wrong_dtype", _RETURN + "    return right.double()\n"),
    "wrong_numbers": solution("wrong_numbers", _RETURN + "    return right + 0.01\n"),
    "one_wrong_element": solution("one_wrong_element", _RETURN + "    right[-1, -1] += 0.1\n    return right\n"),
    "nan": solution("nan", _RETURN + "    right[0, 0] = float('nan')\n    return right\n"),
    "writes_nothing": solution("writes_nothing", "def run(x, weight, y):\n    pass\n", into=True),
    "mutates": solution("mutates", _RETURN + "    x.zero_()\n    return right\n"),
    "remembers": solution(
        "remembers",
        _RETURN.replace("def run", "seen = {}\n\n\ndef run")
        + "    return seen.setdefault((x.data_ptr(), weight.data_ptr()), right)\n",
    ),
    "subclass": solution("subclass", _RETURN + "    return right.as_subclass(type('Lazy', (torch.Tensor,), {}))\n"),
    "two_values": solution("two_values", _RETURN + "    return right, right\n"),
    "raises": solution("raises", "def run(x, weight):\n    print('on my way')\n    raise ValueError('kaputt')\n"),
    "exits": solution("exits", "import os\n\n\ndef run(x, weight):\n    print('bye', flush=True)\n    os._exit(7)\n"),
    "sys_exit": solution("sys_exit", "import sys\n\n\ndef run(x, weight):\n    sys.exit(0)\n"),
    "segfault": solution("segfault", "import ctypes\n\n\ndef run(x, weight):\n    ctypes.string_at(0)\n"),
    "hangs": solution("hangs", "def run(x, weight):\n    while True:\n        pass\n"),
    "does_not_import": solution("does_not_import", "import no_such_module\n\n\ndef run(x, weight): ...\n"),
    "does_not_compile": solution(
        "does_not_compile", _BROKEN_CPP, into=True, language="cpp", entry_point="kernel.cpp::run", binding="tvm-ffi"
    ),
    "talks_nonsense": solution(
        "talks_nonsense",
        "import os, stat\n\n\ndef run(x, weight):\n    for fd in range(3, 64):\n        try:\n"
        "            if stat.S_ISSOCK(os.fstat(fd).st_mode):\n                os.write(fd, b'\\xff' * 64)\n"
        "        except OSError:\n            pass\n    return x\n",
    ),
}


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> TraceSet:
    root = tmp_path_factory.mktemp("statuses")
    return dataset(root, *CANDIDATES.values(), workloads=(workload("w1", batch_size=4),))


@pytest.fixture(scope="module")
def results(traces: TraceSet, cache: Path) -> dict[str, BenchResult]:
    found = run_bench(traces, timeout=4.0, cache=cache)
    return {result.solution.name: result for result in found}


@pytest.mark.parametrize(
    ("name", "status", "log"),
    [
        ("right", "PASSED", ""),
        ("right_into", "PASSED", ""),
        ("engine", "PASSED", ""),
        ("wrong_shape", "INCORRECT_SHAPE", f"output output has the shape (1, {HIDDEN}), expected (4, {HIDDEN})"),
        ("wrong_dtype", "INCORRECT_DTYPE", "output output is float64, expected float32"),
        ("wrong_numbers", "INCORRECT_NUMERICAL", "of the elements match"),
        ("one_wrong_element", "INCORRECT_NUMERICAL", "1 of 256 wrong, the first:\n  [3, 63] "),
        ("nan", "INCORRECT_NUMERICAL", "NaN or Inf differ"),
        ("writes_nothing", "INCORRECT_NUMERICAL", "nan expected"),
        ("mutates", "INCORRECT_NUMERICAL", "wrote to its inputs: hidden_states"),
        ("remembers", "INCORRECT_NUMERICAL", "in a timed call"),
        ("subclass", "RUNTIME_ERROR", "not a torch.Tensor"),
        ("two_values", "RUNTIME_ERROR", "2 values were returned"),
        ("raises", "RUNTIME_ERROR", "ValueError: kaputt"),
        ("exits", "RUNTIME_ERROR", "exited with code 7"),
        ("sys_exit", "RUNTIME_ERROR", "SystemExit"),
        ("segfault", "RUNTIME_ERROR", "killed by SIGSEGV"),
        ("talks_nonsense", "RUNTIME_ERROR", ""),
        ("hangs", "TIMEOUT", "no answer within 4 s"),
        ("does_not_import", "COMPILE_ERROR", "No module named 'no_such_module'"),
        ("does_not_compile", "COMPILE_ERROR", "kernel.cpp:1"),
    ],
)
def test_status(name: str, status: str, log: str, results: dict[str, BenchResult]) -> None:
    result = results[name]
    assert (result.status.value, log in result.log) == (status, True), result.log


def test_what_a_failing_solution_printed_is_in_the_log(results: dict[str, BenchResult]) -> None:
    assert "on my way" in results["raises"].log
    assert "bye" in results["exits"].log


def test_the_traceback_shows_the_solutions_frames_only(results: dict[str, BenchResult]) -> None:
    assert "worker.py" not in results["raises"].log
    assert 'kernel.py", line 3, in run' in results["raises"].log


def test_every_result_is_a_trace_and_a_measurement_on_disk(traces: TraceSet, results: dict[str, BenchResult]) -> None:
    assert traces.root is not None
    written = TraceSet.from_path(traces.root).traces[NORM.name]
    assert sorted(trace.solution or "" for trace in written) == sorted(CANDIDATES)
    assert sorted(m.solution for m in load_measurements(traces.root)) == sorted(CANDIDATES)
    folders = {path.parts[-3] for path in (traces.root / "traces").rglob("*.jsonl")}
    assert folders == {"tests", "engine"}


def test_a_passed_solution_is_compared_with_the_displaced_op(results: dict[str, BenchResult]) -> None:
    measured = results["right"].measurement
    assert measured.baseline == "engine"
    assert measured.ratio == pytest.approx((measured.baseline_ms or 0) / (measured.solution_ms or 1))
    assert 0 < (measured.ratio_low or 0) <= (measured.ratio or 0)


def test_the_engines_own_op_has_the_ratio_one(results: dict[str, BenchResult]) -> None:
    measured = results["engine"].measurement
    assert (measured.baseline, measured.ratio, measured.ratio_low) == ("engine", 1.0, 1.0)


def test_speedup_factor_is_against_the_reference(results: dict[str, BenchResult]) -> None:
    evaluation = results["right"].trace.evaluation
    assert evaluation is not None
    performance = evaluation.performance
    assert performance is not None
    assert performance.speedup_factor == pytest.approx(performance.reference_latency_ms / performance.latency_ms)


def test_a_failed_solution_has_no_ratio(results: dict[str, BenchResult]) -> None:
    measured = results["wrong_numbers"].measurement
    assert (measured.ratio, measured.solution_ms) == (None, None)
