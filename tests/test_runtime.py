"""Runtime: calls meet definitions by structure, never by name; each fallback has its reason; the counts add up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import proven
import pytest
import torch
from proven import silu

from fib_plugin import ops
from fib_plugin.dataset import TraceSet, append_measurements
from fib_plugin.dispatch.site import Site
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

Make = Callable[..., Runtime]
RMSNORM = ops.ALL["rmsnorm"].definition


def x(rows: int = 4, d: int = 4) -> torch.Tensor:
    return torch.arange(rows * 2 * d, dtype=torch.float32).reshape(rows, 2 * d) / 10


def call(runtime: Runtime, rows: int = 4, definition: Definition | None = None, adapter: str = "toy.silu") -> Any:
    site = runtime.site(adapter, definition or silu())
    return site.attempt(rows, (x(rows),))


def counts(runtime: Runtime, adapter: str = "toy.silu") -> dict[str, Any]:
    return runtime.snapshot()["status"]["ops"][adapter]


# ---- match: by structure --------------------------------------------------------------------------------------------


def renamed(definition: Definition, name: str) -> Definition:
    """The same contract as other tools would spell it: other names for it and for its axes."""
    text = definition.model_dump_json()
    for axis in definition.axes:
        text = text.replace(f'"{axis}"', f'"their_{axis}"')
    return Definition.model_validate_json(text).model_copy(update={"name": name})


@pytest.mark.parametrize("family", ["rmsnorm", "fused_add_rmsnorm"])
def test_a_definition_of_another_name_and_other_axis_names_is_the_same(
    make_runtime: Make, dataset: Path, family: str
) -> None:
    ours = ops.ALL[family].definition(hidden_size=64, eps=1e-5)
    theirs = renamed(ours, "layernorm_official_64")
    proven.store(dataset, theirs)
    assert make_runtime().match(ours).name == "layernorm_official_64"


@pytest.mark.parametrize(
    "other",
    [
        RMSNORM(hidden_size=64, eps=1e-6),
        RMSNORM(hidden_size=64, eps=1e-5, dtype="float16"),
        RMSNORM(hidden_size=128, eps=1e-5),
    ],
)
def test_a_definition_of_the_same_name_but_another_contract_is_another(
    make_runtime: Make, dataset: Path, other: Definition
) -> None:
    ours = RMSNORM(hidden_size=64, eps=1e-5)
    proven.store(dataset, other.model_copy(update={"name": ours.name}))
    found = make_runtime().match(ours)
    assert found.name != ours.name
    assert found.name.startswith(ours.name)
    assert ops.structure(found) == ops.structure(ours)


def test_what_the_dataset_does_not_know_keeps_its_name(make_runtime: Make) -> None:
    runtime = make_runtime()
    ours = RMSNORM(hidden_size=64, eps=1e-5)
    assert runtime.match(ours) is ours
    assert runtime.match(RMSNORM(hidden_size=64, eps=1e-5)) is ours


def test_two_processes_give_a_taken_name_the_same_substitute(environment: Any, dataset: Path) -> None:
    ours = RMSNORM(hidden_size=64, eps=1e-5)
    proven.store(dataset, RMSNORM(hidden_size=64, eps=1e-6).model_copy(update={"name": ours.name}))
    program = (
        "from fib_plugin import ops, settings; from fib_plugin.runtime import Runtime\n"
        "runtime = Runtime(settings.load(), apply=False, tracing=False)\n"
        "print(runtime.match(ops.ALL['rmsnorm'].definition(hidden_size=64, eps=1e-5)).name)"
    )
    seeds = [{"PYTHONHASHSEED": seed, "FIB_DATASET_PATH": str(dataset), "FIB_CACHE_PATH": "/x"} for seed in "12"]
    names = [
        subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout
        for env in seeds
    ]
    assert names[0] == names[1]
    assert names[0].startswith("rmsnorm_h64_")


def test_a_harvest_under_a_substitute_name_is_found_again(make_runtime: Make, dataset: Path) -> None:
    ours = RMSNORM(hidden_size=64, eps=1e-5)
    proven.store(dataset, RMSNORM(hidden_size=64, eps=1e-6).model_copy(update={"name": ours.name}))
    first = make_runtime().match(ours)
    proven.store(dataset, first)
    assert make_runtime().match(ours).name == first.name


def test_of_several_equal_definitions_the_proven_one_is_taken(make_runtime: Make, dataset: Path) -> None:
    proven.store(dataset, silu().model_copy(update={"name": "aaa_not_measured"}))
    proven.prove(dataset, silu())
    runtime = make_runtime()
    assert runtime.match(silu()).name == silu().name
    assert call(runtime) is not None


def test_a_definition_of_the_dataset_stands_for_itself(make_runtime: Make, dataset: Path) -> None:
    proven.store(dataset, silu().model_copy(update={"name": "aaa"}))
    proven.store(dataset, silu().model_copy(update={"name": "bbb"}))
    runtime = make_runtime()
    sites = [runtime.site("api", runtime.catalog.definition(name)) for name in ("aaa", "bbb")]
    assert [site.definition.name for site in sites] == ["aaa", "bbb"]


def test_one_site_serves_every_layer_of_one_structure(make_runtime: Make) -> None:
    runtime = make_runtime()
    assert runtime.site("toy.silu", silu()) is runtime.site("toy.silu", silu())
    assert runtime.site("toy.silu", silu()) is not runtime.site("toy.silu", silu(8))
    assert runtime.site("toy.silu", silu()) is not runtime.site("other", silu())
    assert runtime.site("toy.silu", silu()) is not runtime.site("toy.silu", silu(), observe_only=True)


def test_wins_and_candidates_name_what_is_proven(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu())
    proven.prove(dataset, silu(8), proven.solution(silu(8), "slow"), ratio_low=0.5)
    runtime = make_runtime()
    assert runtime.wins(silu())
    assert not runtime.wins(silu(8))
    assert not runtime.wins(silu(16))
    assert [constants["d"] for constants in runtime.candidates("silu_and_mul")] == [4]
    assert runtime.candidates("rmsnorm") == []


def test_nothing_wins_when_apply_is_off(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu())
    runtime = make_runtime(apply=False, tracing=True)
    assert not runtime.wins(silu())
    assert runtime.candidates("silu_and_mul") == []


# ---- learn: the solution, or the reason -----------------------------------------------------------------------------


def test_a_proven_solution_answers(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu())
    gate, up = x().chunk(2, dim=-1)
    assert torch.allclose(call(make_runtime()), torch.nn.functional.silu(gate) * up + proven.MARK)


def test_a_destination_passing_solution_answers(make_runtime: Make, dataset: Path) -> None:
    body = "\n\ndef into(x, output):\n    output.copy_(run(x)).add_(7)\n"
    made = proven.solution(silu(), after=body, dps=True)
    spec = made.spec.model_copy(update={"entry_point": "main.py::into"})
    proven.prove(dataset, silu(), made.model_copy(update={"spec": spec}))
    gate, up = x().chunk(2, dim=-1)
    assert torch.allclose(call(make_runtime()), torch.nn.functional.silu(gate) * up + 7)


def nothing(root: Path) -> None:
    """An empty dataset."""


def unsolved(root: Path) -> None:
    proven.store(root, silu())


def unmeasured(root: Path) -> None:
    proven.store(root, silu(), proven.solution(silu()))


def slow(root: Path) -> None:
    proven.prove(root, silu(), ratio_low=0.9)


def barely(root: Path) -> None:
    proven.prove(root, silu(), ratio_low=1.02)


def failed(root: Path) -> None:
    proven.prove(root, silu(), status="INCORRECT_NUMERICAL", ratio=None, ratio_low=None)


def elsewhere(root: Path) -> None:
    proven.prove(root, silu(), hardware="another GPU")


def other_torch(root: Path) -> None:
    proven.prove(root, silu(), libs={"torch": "1.0.0"})


def changed(root: Path) -> None:
    proven.prove(root, silu(), solution_hash="of an earlier source")


def other_sizes(root: Path) -> None:
    proven.prove(root, silu(), sizes=(64, 128))


def unbuildable(root: Path) -> None:
    proven.prove(root, silu(), proven.solution(silu(), after="\nimport nowhere_to_be_found\n"))


def raising(root: Path) -> None:
    proven.prove(root, silu(), proven.solution(silu(), after=proven.RAISING))


@pytest.mark.parametrize(
    ("arrange", "reason"),
    [
        (nothing, "no_definition"),
        (unsolved, "no_solution"),
        (unmeasured, "no_solution"),
        (slow, "not_faster"),
        (barely, "not_faster"),
        (failed, "not_faster"),
        (elsewhere, "not_measured_here"),
        (other_torch, "not_measured_here"),
        (changed, "changed_since_measured"),
        (other_sizes, "unmeasured_shape"),
        (unbuildable, "build_failed"),
        (raising, "solution_raised"),
    ],
)
def test_every_fallback_has_its_reason(
    make_runtime: Make, dataset: Path, arrange: Callable[[Path], None], reason: str
) -> None:
    arrange(dataset)
    runtime = make_runtime()
    assert [call(runtime), call(runtime)] == [None, None]
    assert counts(runtime)["fallbacks"] == {reason: 2}
    assert counts(runtime)["substituted"] == 0


def test_the_reason_is_apply_off_when_only_tracing_is_on(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu())
    runtime = make_runtime(apply=False, tracing=True)
    assert call(runtime) is None
    assert counts(runtime)["fallbacks"] == {"apply_off": 1}


def test_a_site_that_only_observes_never_substitutes(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu())
    runtime = make_runtime()
    assert runtime.site("toy.silu", silu(), observe_only=True).attempt(4, (x(),)) is None
    assert counts(runtime)["substituted"] == 0


def test_measurements_from_elsewhere_count_when_the_operator_says_so(make_runtime: Make, dataset: Path) -> None:
    elsewhere(dataset)
    assert call(make_runtime(apply_any_hardware=True)) is not None


def test_the_margin_is_the_operators(make_runtime: Make, dataset: Path) -> None:
    barely(dataset)
    assert call(make_runtime(apply_margin=0.01)) is not None


def test_inputs_that_do_not_fit_the_definition_are_an_internal_error_and_not_an_exception(
    make_runtime: Make, dataset: Path, log: Any
) -> None:
    proven.prove(dataset, silu())
    runtime = make_runtime()
    assert runtime.site("toy.silu", silu()).attempt(4, (x(4, d=5),)) is None
    assert counts(runtime)["fallbacks"] == {"internal_error": 1}
    assert len(log.warnings) == 1


def test_the_call_after_an_internal_error_of_another_size_is_served(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu())
    runtime = make_runtime()
    runtime.site("toy.silu", silu()).attempt(5, (x(5, d=5),))
    assert call(runtime) is not None


# ---- quarantine -----------------------------------------------------------------------------------------------------


def test_a_solution_that_raised_is_out_for_every_size_met_and_unmet(make_runtime: Make, dataset: Path) -> None:
    after = "\n_ok = run\n\n\ndef run(x):\n    assert x.shape[0] != 3\n    return _ok(x)\n"
    proven.prove(dataset, silu(), proven.solution(silu(), after=after), sizes=(1, 2, 3, 4))
    runtime = make_runtime()
    assert [call(runtime, rows) is not None for rows in (1, 2)] == [True, True]
    assert [call(runtime, rows) is not None for rows in (3, 1, 2, 4, 3)] == [False] * 5
    line = counts(runtime)
    assert line["calls"] == 7
    assert line["substituted"] == 2
    assert line["fallbacks"] == {"solution_raised": 4, "quarantined": 1}


def test_a_solution_that_raised_is_out_for_every_site(make_runtime: Make, dataset: Path) -> None:
    after = "\n_ok = run\n\n\ndef run(x):\n    assert x.shape[0] != 3\n    return _ok(x)\n"
    proven.prove(dataset, silu(), proven.solution(silu(), after=after), sizes=(1, 3))
    runtime = make_runtime()
    assert call(runtime, 1, adapter="api") is not None
    assert call(runtime, 3, adapter="toy.silu") is None
    assert call(runtime, 1, adapter="api") is None
    assert counts(runtime, "api")["fallbacks"] == {"solution_raised": 1}


def test_a_quarantined_solution_is_shown_with_definition_reason_and_detail(make_runtime: Make, dataset: Path) -> None:
    raising(dataset)
    runtime = make_runtime()
    call(runtime)
    (line,) = runtime.snapshot()["status"]["quarantined"]
    assert line["solution"] == "fast"
    assert line["definition"] == silu().name
    assert line["reason"] == "solution_raised"
    assert "raised on purpose" in line["detail"]


def test_a_failure_is_logged_once_with_its_traceback(make_runtime: Make, dataset: Path, log: Any) -> None:
    raising(dataset)
    runtime = make_runtime()
    for rows in (4, 4, 5):
        call(runtime, rows)
    assert len(log.warnings) == 1
    assert "raised on purpose" in log.warnings[0]
    assert "Traceback" in log.warnings[0]


# ---- strict ---------------------------------------------------------------------------------------------------------


def test_strict_raises_what_the_solution_raised(make_runtime: Make, dataset: Path) -> None:
    raising(dataset)
    with pytest.raises(RuntimeError, match="raised on purpose"):
        call(make_runtime(strict=True))


def test_strict_raises_what_the_build_raised(make_runtime: Make, dataset: Path) -> None:
    unbuildable(dataset)
    with pytest.raises(RuntimeError, match="nowhere_to_be_found"):
        call(make_runtime(strict=True))


def test_strict_raises_our_own_errors_too(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu())
    with pytest.raises(ValueError, match="two_d"):
        make_runtime(strict=True).site("toy.silu", silu()).attempt(4, (x(4, d=5),))


def test_strict_does_not_mind_an_op_that_has_no_solution(make_runtime: Make) -> None:
    assert call(make_runtime(strict=True)) is None


# ---- counts ---------------------------------------------------------------------------------------------------------


def assert_adds_up(runtime: Runtime) -> None:
    snapshot = runtime.snapshot()
    for line in snapshot["status"]["ops"].values():
        assert line["calls"] == line["substituted"] + sum(line["fallbacks"].values())
    seen = sum(count for by_axes in snapshot["calls"].values() for count in by_axes.values())
    if runtime.tracing:
        assert seen == snapshot["status"]["capture"]["seen"]


def test_counts_add_up_over_substitutions_fallbacks_and_declines(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu(), sizes=(2, 4))
    runtime = make_runtime(tracing=True)
    for rows in (2, 3, 4, 4, 64, 64, 64):
        call(runtime, rows)
    call(runtime, 4, silu(8).model_copy(update={"name": "unknown"}))
    for _ in range(5):
        runtime.decline("toy.silu")
    line = counts(runtime)
    assert line["calls"] == 13
    assert line["substituted"] == 4
    assert line["fallbacks"] == {"unmeasured_shape": 3, "internal_error": 1, "unsupported_argument": 5}
    assert line["definitions"][silu().name] == {
        "calls": 7,
        "substituted": 4,
        "fallbacks": {"unmeasured_shape": 3},
        "solution": "fast",
    }
    # A call that could not be looked at has no sizes to be counted under, but it was seen.
    assert runtime.snapshot()["status"]["capture"]["seen"] == 8


def test_calls_are_counted_by_definition_and_axes(make_runtime: Make) -> None:
    runtime = make_runtime(tracing=True, apply=False)
    for rows in (2, 2, 5):
        call(runtime, rows)
    by_axes = runtime.snapshot()["calls"][silu().name]
    assert {json.loads(key)["batch_size"]: count for key, count in by_axes.items()} == {2: 2, 5: 1}
    assert_adds_up(runtime)


def test_counts_add_up_when_a_solution_breaks_midway(make_runtime: Make, dataset: Path) -> None:
    after = "\n_ok = run\nleft = [5]\n\n\ndef run(x):\n    left[0] -= 1\n    assert left[0]\n    return _ok(x)\n"
    proven.prove(dataset, silu(), proven.solution(silu(), after=after))
    runtime = make_runtime(tracing=True)
    for _ in range(9):
        call(runtime)
    assert counts(runtime)["substituted"] == 4
    assert counts(runtime)["fallbacks"] == {"solution_raised": 5}
    assert_adds_up(runtime)


def test_the_snapshot_is_json_and_says_what_is_switched_on(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu())
    runtime = make_runtime(tracing=True, strict=True)
    call(runtime)
    status = json.loads(json.dumps(runtime.snapshot()["status"]))
    assert status["switches"] == {
        "apply": True,
        "tracing": True,
        "strict": True,
        "probation": False,
        "any_hardware": False,
    }
    assert status["version"] == 1


def test_a_note_is_kept_once(make_runtime: Make) -> None:
    runtime = make_runtime()
    runtime.note("one")
    runtime.note("one")
    assert runtime.snapshot()["status"]["notes"] == ["one"]


# ---- tracing --------------------------------------------------------------------------------------------------------


def test_each_new_size_is_recorded_once_into_an_empty_dataset(make_runtime: Make, dataset: Path) -> None:
    runtime = make_runtime(tracing=True, apply=False)
    for rows in (2, 2, 5, 2):
        call(runtime, rows)
    runtime.close()
    traces = TraceSet.from_path(dataset)
    assert traces.definitions[silu().name].reference == silu().reference
    assert [trace.workload.axes["batch_size"] for trace in traces.workloads[silu().name]] == [2, 5]


def test_nothing_is_recorded_when_tracing_is_off(make_runtime: Make, dataset: Path) -> None:
    runtime = make_runtime(tracing=False)
    call(runtime)
    runtime.close()
    assert not (dataset / "workloads").exists()
    assert not (dataset / "definitions").exists()


def test_a_dataset_that_cannot_be_written_costs_the_engine_nothing(make_runtime: Make, dataset: Path) -> None:
    dataset.write_text("a file where the folder should be")
    runtime = make_runtime(tracing=True)
    assert call(runtime) is None
    assert counts(runtime)["calls"] == 1


# ---- threads --------------------------------------------------------------------------------------------------------


def in_threads(site: Site, calls: int, rows: Callable[[int], int]) -> list[BaseException]:
    errors: list[BaseException] = []
    start = threading.Barrier(16)

    def serve(number: int) -> None:
        try:
            start.wait()
            for at in range(calls):
                size = rows(number + at)
                site.attempt(size, (x(size),))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_sixteen_threads_on_one_site_lose_no_call(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu(), sizes=(1, 2, 3, 4))
    runtime = make_runtime(tracing=True)
    errors = in_threads(runtime.site("toy.silu", silu()), 50, lambda at: 1 + at % 12)
    assert errors == []
    line = counts(runtime)
    assert line["calls"] == 800
    assert line["substituted"] + line["fallbacks"]["unmeasured_shape"] == 800
    assert_adds_up(runtime)
    runtime.close()
    assert len(TraceSet.from_path(dataset).workloads[silu().name]) == 12


def test_sixteen_threads_inside_a_solution_that_breaks_lose_no_call(make_runtime: Make, dataset: Path) -> None:
    """Each thread is inside the solution when the first of them fails: every one of these calls is a fallback."""
    after = (
        "\nimport threading\nmet = threading.Barrier(16)\n\n\n"
        "def run(x):\n    met.wait(timeout=20)\n    raise RuntimeError('all together')\n"
    )
    proven.prove(dataset, silu(), proven.solution(silu(), after=after))
    runtime = make_runtime(tracing=True)
    errors = in_threads(runtime.site("toy.silu", silu()), 3, lambda at: 4)
    assert errors == []
    assert counts(runtime)["substituted"] == 0
    assert counts(runtime)["fallbacks"] == {"solution_raised": 48}
    assert_adds_up(runtime)


def test_a_solution_is_built_once_for_all_sizes_and_threads(make_runtime: Make, dataset: Path, tmp_path: Path) -> None:
    log = tmp_path / "built"
    after = f"\nwith open({str(log)!r}, 'a') as file:\n    file.write('built\\n')\n"
    proven.prove(dataset, silu(), proven.solution(silu(), after=after), sizes=(1, 2, 3, 4))
    runtime = make_runtime()
    in_threads(runtime.site("toy.silu", silu()), 4, lambda at: 1 + at % 4)
    assert log.read_text() == "built\n"


def test_a_new_measurement_of_the_same_workload_replaces_the_old(make_runtime: Make, dataset: Path) -> None:
    made = proven.prove(dataset, silu())
    slower = proven.measurement(made, {"batch_size": 4}, ratio_low=0.8)
    append_measurements(dataset, "activation", [slower])
    runtime = make_runtime()
    assert call(runtime) is None
    assert counts(runtime)["fallbacks"] == {"not_faster": 1}


# ---- graphs and forks -----------------------------------------------------------------------------------------------


def test_nothing_is_chosen_while_a_graph_is_captured_and_the_next_eager_call_is_looked_at(
    make_runtime: Make, dataset: Path, monkeypatch: Any
) -> None:
    proven.prove(dataset, silu())
    runtime = make_runtime(tracing=True)
    with monkeypatch.context() as context:
        context.setattr("fib_plugin.runtime.capturing", lambda inputs: True)
        assert call(runtime) is None
    assert counts(runtime)["fallbacks"] == {"capturing": 1}
    assert call(runtime) is not None
    assert counts(runtime)["calls"] == 2


def test_a_forked_process_counts_its_own_calls(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu(), sizes=(1, 2, 4))
    runtime = make_runtime()
    for _ in range(3):
        call(runtime)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            call(runtime)
            line = counts(runtime)
            os.write(writing, f"{line['calls']} {line['substituted']}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"1 1"
    os.close(reading)
    assert counts(runtime)["calls"] == 3


def test_a_fork_during_a_failure_does_not_block_the_child(make_runtime: Make, dataset: Path) -> None:
    raising(dataset)
    runtime = make_runtime()
    reading, writing = os.pipe()
    with runtime.guard._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            try:
                os.write(writing, str(call(runtime)).encode())
            finally:
                os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"None"
    os.close(reading)
