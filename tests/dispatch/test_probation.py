"""Probation: a proven solution runs only after it was right, harmless and not slower on live calls of its size."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dispatch.trial_cases import (
    GOOD,
    ROWS,
    call,
    doing,
    proven,
    reasons,
    rows,
    silu_run,
    site_of,
)
from proven import silu

from fib_plugin.dataset import TraceSet, load_measurements
from fib_plugin.dispatch.guard import ProbationError

Make = Callable[..., Any]


def test_a_right_and_fast_solution_answers_after_three_compared_calls(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, GOOD)
    runtime = make_runtime(probation=True)
    site = site_of(runtime)
    assert call(site) == [None, None, None]
    x = rows()
    torch.testing.assert_close(site.attempt(ROWS, (x,)), silu_run(x))
    assert reasons(runtime) == {"probation": 3}
    assert runtime.snapshot()["status"]["ops"]["test.op"]["substituted"] == 1


#: What a solution does -> the reason it is out for, a word of the detail.
BAD = {
    "wrong values": (doing("out += 1", "after"), "wrong_here", "elements match"),
    "not a number": (doing("out[0, 0] = float('nan')", "after"), "wrong_here", "NaN"),
    "wrong shape": (doing("out = out[:1]", "after"), "wrong_here", "shape"),
    "wrong dtype": (doing("out = out.double()", "after"), "wrong_here", "float64"),
    "exception": (doing("raise ValueError('on purpose')"), "solution_raised", "on purpose"),
    "exception while it is timed": (
        doing("if _calls[0] > 5: raise ValueError('on purpose')"),
        "solution_raised",
        "on purpose",
    ),
    "writes to its input and raises": (
        doing("x[0, 0] = 7.0; raise ValueError('on purpose')"),
        "solution_raised",
        "on purpose",
    ),
    "no tensor": (doing("out = out.tolist()", "after"), "wrong_here", "where a tensor is expected"),
    "nothing": (doing("out = None", "after"), "wrong_here", "NoneType"),
    "writes to its input": (doing("x[0, 0] = 7.0", "after"), "harmful", "wrote to its input x"),
    "keeps its input": (doing("_kept.append(x)"), "harmful", "keeps a reference to its input x"),
    "keeps a view of its input": (doing("_kept.append(x[1:])"), "harmful", "keeps a reference"),
    "draws random numbers": (doing("torch.rand(1)"), "harmful", "torch random state"),
    "seeds": (doing("torch.manual_seed(0)"), "harmful", "torch random state"),
    "draws from python": (doing("import random; random.random()"), "harmful", "python random state"),
    "sets the default dtype": (doing("torch.set_default_dtype(torch.float64)", "after"), "harmful", "default dtype"),
    "sets the thread count": (doing("torch.set_num_threads(3)"), "harmful", "thread count"),
    "switches gradients off": (doing("torch.set_grad_enabled(False)"), "harmful", "gradient"),
    "one buffer for all results": (
        doing("out = _buffer[:out.shape[0]].copy_(out)", "after"),
        "harmful",
        "same memory for every result",
    ),
    "hands out its input": (doing("x[:, :4] = out; out = x[:, :4]", "after"), "harmful", "returns the memory"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_solution_never_answers_and_is_out_for_its_reason(
    what: str, make_runtime: Make, dataset: Path, tmp_path: Path
) -> None:
    source, reason, word = BAD[what]
    # The reference under @torch.no_grad() restores the mode it found, so each source acts outside of it.
    proven(dataset, source)
    runtime = make_runtime(probation=True)
    site = site_of(runtime)
    before = (torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    x = rows()
    copy, before = x.clone(), (torch.get_rng_state(), *before[1:])
    answers = [site.attempt(ROWS, (x,)) for _ in range(6)]
    assert answers == [None] * 6
    torch.testing.assert_close(x, copy)
    after = (torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    out = runtime.guard.out["fast"]
    assert out.reason == reason
    assert word in out.detail
    assert reasons(runtime) == {"probation": 1, reason: 5}


def test_wrong_values_at_one_size_put_the_solution_out_at_all_sizes(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, doing(f"out += float(x.shape[0] == {2 * ROWS})", "after"))
    runtime = make_runtime(probation=True)
    site = site_of(runtime)
    call(site)
    assert call(site, times=1) != [None], "right at this size, so it runs"
    call(site, 2 * ROWS, 1)
    assert call(site, times=1) == [None]
    assert list(runtime.guard.out["fast"].axes.values()) == [2 * ROWS]


@pytest.mark.parametrize(("margin", "answers"), [(0.03, False), (-0.45, True)])
def test_a_negative_margin_lets_a_solution_be_that_much_slower(
    margin: float, answers: bool, make_runtime: Make, dataset: Path
) -> None:
    proven(dataset, doing("time.sleep(0.00065)"))
    site = site_of(make_runtime(probation=True, apply_margin=margin))
    assert (call(site, times=4)[3] is not None) == answers


def test_a_solution_that_is_slow_at_one_size_runs_at_the_others(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, doing(f"time.sleep(0.003 * (x.shape[0] == {2 * ROWS}))"))
    runtime = make_runtime(probation=True)
    site = site_of(runtime)
    assert call(site, times=4)[3] is not None
    assert call(site, 2 * ROWS, 4) == [None] * 4
    assert reasons(runtime)["slower_here"] == 1
    assert "fast" not in runtime.guard.out
    assert call(site, times=1) != [None]


def test_a_solution_that_raises_on_its_hundredth_call_is_answered_by_the_engine_from_then_on(
    make_runtime: Make, dataset: Path
) -> None:
    proven(dataset, doing("if _calls[0] == 100: raise RuntimeError('tired')"))
    runtime = make_runtime(probation=True)
    site = site_of(runtime)
    answers = call(site, times=150)
    answered = [answer is not None for answer in answers]
    assert answered[3]
    first_without = answered.index(False, 3)
    assert not any(answered[first_without:])
    assert reasons(runtime)["solution_raised"] == 150 - first_without
    assert "tired" in runtime.guard.out["fast"].traceback


def test_the_random_state_is_as_the_engine_left_it(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, GOOD)
    site = site_of(make_runtime(probation=True), lambda x: silu_run(x) + 0 * torch.rand(1) + 0 * time.sleep(5e-4))
    x = rows()
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    site.attempt(ROWS, (x,))
    assert torch.equal(torch.rand(2), wanted)


def test_every_size_is_tried_on_its_own(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, GOOD)
    runtime = make_runtime(probation=True)
    site = site_of(runtime)
    call(site, times=4)
    assert call(site, 2 * ROWS, 3) == [None] * 3
    assert call(site, 2 * ROWS, 1) != [None]


def test_timing_rotates_over_the_layers_that_share_the_definition(make_runtime: Make, dataset: Path) -> None:
    from proven import prove, solution

    from fib_plugin import ops
    from fib_plugin.dispatch.site import Original

    gemm = ops.ALL["gemm"].definition(n=8, k=8, dtype="float32")
    prove(dataset, gemm, solution(gemm, after=GOOD), (2,))
    runtime = make_runtime(probation=True)
    weights = [torch.randn(8, 8) for _ in range(3)]
    seen: list[int] = []

    def original(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append(b.data_ptr())
        time.sleep(5e-4)
        return a @ b.T

    site = runtime.site("test.op", gemm, original=Original(original))
    for weight in weights:
        site.attempt(2, (torch.randn(2, 8), weight))
    timed_in_the_last_call = set(seen[-4:])
    assert len(timed_in_the_last_call) > 1
    assert {weight.data_ptr() for weight in weights} == set(seen)
    assert site.attempt(2, (torch.randn(2, 8), weights[0])) is not None


def test_inputs_that_the_engine_overwrites_are_cloned_for_both(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, GOOD)
    folder = dataset / "fib" / "evaluation" / silu().op_type
    folder.mkdir(parents=True)
    (folder / f"{silu(4).name}.yaml").write_text("mutates: [x]\n")
    runtime = make_runtime(probation=True)

    def in_place(x: torch.Tensor) -> torch.Tensor:
        out = silu_run(x)
        time.sleep(5e-4)
        x.zero_()
        return out

    site = site_of(runtime, in_place)
    x = rows()
    copy = x.clone()
    for _ in range(3):
        assert site.attempt(ROWS, (x,)) is None
    assert torch.equal(x, copy)
    torch.testing.assert_close(site.attempt(ROWS, (x,)), silu_run(x))


def test_a_solution_may_overwrite_what_the_engines_op_overwrites(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, doing("x.zero_()", "after"))
    folder = dataset / "fib" / "evaluation" / silu().op_type
    folder.mkdir(parents=True)
    (folder / f"{silu(4).name}.yaml").write_text("mutates: [x]\n")
    site = site_of(make_runtime(probation=True))
    x = rows()
    copy = x.clone()
    assert [site.attempt(ROWS, (x,)) for _ in range(3)] == [None] * 3
    assert torch.equal(x, copy), "probation itself changes nothing"
    torch.testing.assert_close(site.attempt(ROWS, (x,)), silu_run(copy))


def test_another_thread_that_draws_random_numbers_does_not_count_against_a_solution(
    make_runtime: Make, dataset: Path
) -> None:
    """Drawn once, as by a thread beside it, and not by every call of the solution."""
    proven(dataset, doing("torch.rand(1) if _calls[0] == 1 else None"))
    site = site_of(make_runtime(probation=True))
    assert call(site, times=3) == [None] * 3
    assert call(site, times=1) != [None]


def test_an_engines_op_that_fails_in_probation_costs_the_substitution_and_nothing_else(
    make_runtime: Make, dataset: Path, log: Any
) -> None:
    proven(dataset, GOOD)
    runtime = make_runtime(probation=True)

    def broken(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the engine's own")

    site = site_of(runtime, broken)
    assert call(site, times=5) == [None] * 5
    assert reasons(runtime) == {"probation": 1, "internal_error": 4}
    assert "fast" not in runtime.guard.out
    assert len([line for line in log.warnings if "the engine's own" in line]) == 1


def test_strict_raises_what_probation_found(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, doing("out += 1", "after"))
    site = site_of(make_runtime(probation=True, strict=True))
    with pytest.raises(ProbationError, match="elements match"):
        site.attempt(ROWS, (rows(),))


def test_nothing_is_compared_while_a_graph_is_captured_and_that_is_counted(
    make_runtime: Make, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven(dataset, GOOD)
    runtime = make_runtime(probation=True)
    compared: list[int] = []

    def original(x: torch.Tensor) -> torch.Tensor:
        compared.append(1)
        time.sleep(5e-4)
        return silu_run(x)

    site = site_of(runtime, original)
    call(site, times=1)
    seen = len(compared)
    for module in ("trial", "watch"):
        monkeypatch.setattr(f"fib_plugin.dispatch.{module}.capturing", lambda args: True)
    assert call(site, times=4) == [None] * 4
    assert len(compared) == seen
    monkeypatch.undo()
    assert reasons(runtime) == {"probation": 1, "capturing": 4}
    call(site, times=2)
    assert call(site, times=1) != [None]


def test_a_traffic_of_ever_new_sizes_spends_no_more_than_the_budget(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, GOOD, sizes=(1, 64))
    runtime = make_runtime(probation=True)
    runtime.guard.budget.spent_s = 1e9
    site = site_of(runtime)
    assert call(site, 7, 10) == [None] * 10
    assert reasons(runtime) == {"probation": 10}
    runtime.guard.budget.spent_s = 0.0
    assert call(site, 7, 4)[3] is not None


def test_what_was_found_is_written_down_as_a_trace_and_a_live_measurement(make_runtime: Make, dataset: Path) -> None:
    made = proven(dataset, doing(f"time.sleep(0.003 * (x.shape[0] == {2 * ROWS}))"))
    runtime = make_runtime(probation=True)
    site = site_of(runtime)
    call(site)
    call(site, 2 * ROWS)
    runtime.close()
    live = [m for m in load_measurements(dataset) if m.source == "live"]
    by_rows = {next(iter(m.axes.values())): m for m in live}
    assert set(by_rows) == {ROWS, 2 * ROWS}
    assert by_rows[ROWS].status == by_rows[2 * ROWS].status == "PASSED"
    assert by_rows[ROWS].ratio > 1 > by_rows[2 * ROWS].ratio
    assert all(m.run.startswith("live-") and m.hardware and m.libs for m in live)
    traces = TraceSet.from_path(dataset).traces[made.definition]
    assert {trace.workload.uuid for trace in traces} == {m.workload for m in live}
    assert all(trace.passed and trace.evaluation.performance.latency_ms > 0 for trace in traces)


def test_a_size_lost_in_the_engine_is_not_tried_again_after_a_restart(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, doing("time.sleep(0.003)"))
    first = make_runtime(probation=True)
    call(site_of(first))
    first.close()
    second = make_runtime(probation=True)
    assert call(site_of(second), times=1) == [None]
    assert reasons(second) == {"not_faster": 1}


def test_a_failure_is_written_down_with_its_status(make_runtime: Make, dataset: Path) -> None:
    made = proven(dataset, doing("out += 1", "after"))
    runtime = make_runtime(probation=True)
    call(site_of(runtime), times=1)
    runtime.close()
    (trace,) = TraceSet.from_path(dataset).traces[made.definition]
    assert trace.evaluation.status.value == "INCORRECT_NUMERICAL"
    assert trace.evaluation.correctness.max_absolute_error == pytest.approx(1.0, rel=0.1)


def test_a_dataset_that_cannot_be_written_costs_the_reports_only(make_runtime: Make, dataset: Path, log: Any) -> None:
    proven(dataset, GOOD)
    runtime = make_runtime(probation=True)
    (dataset / "traces").write_text("a file where a folder should be")
    site = site_of(runtime)
    call(site)
    runtime._reports.flush()
    assert call(site, times=1) != [None]
    assert len([line for line in log.warnings if "cannot be written" in line]) == 1


def test_quarantine_is_honoured_by_the_next_start_until_trust_is_given_again(
    make_runtime: Make, dataset: Path, tmp_path: Path
) -> None:
    from fib_plugin.dispatch.quarantine import Quarantine

    proven(dataset, doing("out += 1", "after"))
    call(site_of(make_runtime(probation=True)), times=1)
    later = make_runtime(probation=True)
    assert call(site_of(later), times=2) == [None, None]
    assert reasons(later) == {"quarantined": 2}
    quarantine = Quarantine(tmp_path / "cache" / "quarantine")
    assert quarantine.clear([record.hash for record in quarantine.records()])
    last = make_runtime(probation=False)
    assert call(site_of(last), times=1) != [None]


def test_a_running_process_honours_what_another_puts_into_quarantine(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, doing("if x.shape[0] == 8: raise RuntimeError('here only')"))
    one, other = make_runtime(probation=False), make_runtime(probation=False)
    here, there = site_of(one), site_of(other)
    assert call(here, times=1) != [None]
    assert call(there, 8, 1) == [None]
    one.guard.honour()
    assert call(here, times=1) == [None]
    assert reasons(one) == {"quarantined": 1}


def test_the_quarantine_record_names_hash_reason_axes_and_traceback(
    make_runtime: Make, dataset: Path, tmp_path: Path
) -> None:
    from fib_plugin.schema import content_hash

    made = proven(dataset, doing("raise ValueError('look here')"))
    call(site_of(make_runtime(probation=False)), times=1)
    (file,) = (tmp_path / "cache" / "quarantine").glob("*.json")
    record = json.loads(file.read_text())
    assert record["hash"] == content_hash(made)
    assert record["reason"] == "solution_raised"
    assert list(record["axes"].values()) == [ROWS]
    assert "look here" in record["traceback"]


def test_a_recheck_every_so_many_calls_catches_a_solution_that_goes_bad(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, doing("out += float(_calls[0] > 60)", "after"))
    runtime = make_runtime(probation=True, recheck_every=10)
    site = site_of(runtime)
    answers = call(site, times=200)
    assert answers[3] is not None
    assert answers[-1] is None
    assert runtime.guard.out["fast"].reason == "wrong_here"


def test_a_recheck_lets_a_good_solution_run_on(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, GOOD)
    runtime = make_runtime(probation=True, recheck_every=10)
    answers = call(site_of(runtime), times=53)
    # 3 calls of probation, then one compared call after each 10 answered ones.
    assert sum(answer is None for answer in answers) == 3 + 4
    assert reasons(runtime) == {"probation": 7}


def test_nan_in_an_output_is_answered_by_the_engine_and_looked_at(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, doing("out[0, 0] = float('nan') if _calls[0] > 60 else out[0, 0]", "after"))
    runtime = make_runtime(probation=True, nan_check_every=1)
    site = site_of(runtime)
    answers = call(site, times=200)
    assert answers[3] is not None
    assert all(answer is None or answer.isfinite().all() for answer in answers)
    assert runtime.guard.out["fast"].reason == "wrong_here"


def test_nan_that_the_engines_op_returns_too_is_no_reason(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, GOOD)
    runtime = make_runtime(probation=True, nan_check_every=1)
    site = site_of(runtime)
    call(site)
    padding = rows()
    padding[0] = float("nan")
    assert site.attempt(ROWS, (padding,)) is None
    assert site.attempt(ROWS, (padding,)) is None
    assert "fast" not in runtime.guard.out
    assert call(site, times=1) != [None]
