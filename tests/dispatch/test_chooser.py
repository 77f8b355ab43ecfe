"""What stands between a proven solution and an engine: trust, its file, its build, the evaluation config."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import proven
import pytest
import torch
from dispatch.trial_cases import GOOD, ROWS, D, call, reasons, site_of
from proven import MARKED, silu, solution

from fib_plugin import ops
from fib_plugin.dataset import append_measurements
from fib_plugin.dispatch.trust import add, remove
from fib_plugin.schema import BuildSpec, Language, Solution, SourceFile, content_hash

Make = Callable[..., Any]


def stored(dataset: Path, made: Solution) -> Path:
    (file,) = (dataset / "solutions").rglob(f"{made.name}.json")
    return file


def rewrite(file: Path, change: Callable[[str], str]) -> None:
    """Changes the source in a solution's file."""
    content = json.loads(file.read_text())
    content["sources"][0]["content"] = change(content["sources"][0]["content"])
    file.write_text(json.dumps(content))


def test_a_trusted_solution_runs(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu(D))
    assert call(site_of(make_runtime()), times=1) != [None]


def test_a_proven_solution_that_nobody_trusts_is_not_loaded_counted_and_told_once(
    make_runtime: Make, dataset: Path, tmp_path: Path, log: Any
) -> None:
    loaded = tmp_path / "loaded"
    made = solution(silu(D), after=f"{MARKED}\nopen({str(loaded)!r}, 'w')\n")
    proven.prove(dataset, silu(D), made, (ROWS, 2 * ROWS))
    remove(tmp_path / "fib.lock", [made.name])
    runtime = make_runtime()
    site = site_of(runtime)
    assert call(site, times=3) == [None] * 3
    assert call(site, 2 * ROWS, 2) == [None] * 2
    assert reasons(runtime) == {"not_trusted": 5}
    assert not loaded.exists()
    assert len([line for line in log.warnings if "`fib trust add`" in line]) == 1


def test_a_solution_runs_up_to_the_size_that_it_is_trusted_for(
    make_runtime: Make, dataset: Path, tmp_path: Path
) -> None:
    made = solution(silu(D))
    proven.prove(dataset, silu(D), made, (ROWS, 2 * ROWS))
    (axis,) = silu(D).var_axes
    add(tmp_path / "fib.lock", {made.name: made}, {}, up_to={axis: ROWS})
    runtime = make_runtime()
    site = site_of(runtime)
    assert None not in call(site, ROWS, 2)
    assert call(site, 2 * ROWS, 2) == [None] * 2
    assert reasons(runtime) == {"beyond_trust": 2}


def test_without_a_lock_file_nothing_is_trusted(make_runtime: Make, dataset: Path, tmp_path: Path) -> None:
    proven.prove(dataset, silu(D))
    (tmp_path / "fib.lock").unlink()
    runtime = make_runtime()
    assert call(site_of(runtime), times=1) == [None]
    assert reasons(runtime) == {"not_trusted": 1}


def test_with_a_broken_lock_file_nothing_is_trusted_and_the_log_names_it(
    make_runtime: Make, dataset: Path, tmp_path: Path, log: Any
) -> None:
    proven.prove(dataset, silu(D))
    (tmp_path / "fib.lock").write_text("[[solution]\n")
    runtime = make_runtime()
    assert call(site_of(runtime), times=1) == [None]
    assert any("fib.lock" in line and "nothing is trusted" in line for line in log.warnings)


def test_a_file_that_was_tampered_with_after_trust_is_not_loaded_counted_and_told_once(
    make_runtime: Make, dataset: Path, tmp_path: Path, log: Any
) -> None:
    """The attacker also forged measurements of the new source, so only fib.lock stands in the way."""
    made = proven.prove(dataset, silu(D))
    loaded = tmp_path / "loaded"
    rewrite(stored(dataset, made), lambda source: f"{source}\nopen({str(loaded)!r}, 'w')\n")
    content = json.loads(stored(dataset, made).read_text())
    forged = Solution.model_validate(content)
    append_measurements(dataset, silu(D).op_type, [proven.measurement(forged, {"batch_size": ROWS})])
    runtime = make_runtime()
    assert call(site_of(runtime), times=3) == [None] * 3
    assert reasons(runtime) == {"changed_since_trusted": 3}
    assert not loaded.exists()
    assert len([line for line in log.warnings if "differs from what was trusted" in line]) == 1


def test_a_file_that_changes_after_the_start_is_not_loaded(
    make_runtime: Make, dataset: Path, tmp_path: Path, log: Any
) -> None:
    made = proven.prove(dataset, silu(D))
    runtime = make_runtime()
    loaded = tmp_path / "loaded"
    rewrite(stored(dataset, made), lambda source: f"{source}\nopen({str(loaded)!r}, 'w')\n")
    assert call(site_of(runtime), times=2) == [None] * 2
    assert reasons(runtime) == {"changed_since_measured": 2}
    assert not loaded.exists()
    assert len([line for line in log.warnings if made.name in line]) == 1


def test_a_solution_is_trusted_by_content_and_not_by_name(make_runtime: Make, dataset: Path, tmp_path: Path) -> None:
    made = proven.prove(dataset, silu(D))
    renamed = made.model_copy(update={"name": "renamed"})
    proven.store(dataset, silu(D), renamed)
    measured = proven.measurement(renamed, {"batch_size": 64}, ratio=3.0, ratio_low=2.9)
    append_measurements(dataset, silu(D).op_type, [measured])
    assert content_hash(renamed) == content_hash(made)
    assert call(site_of(make_runtime()), 64, 1) != [None]


def test_a_broken_evaluation_sidecar_is_named_and_the_engines_op_answers(
    make_runtime: Make, dataset: Path, log: Any
) -> None:
    proven.prove(dataset, silu(D), solution(silu(D), after=GOOD))
    file = dataset / "fib" / "evaluation" / silu(D).op_type / f"{silu(D).name}.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("atoll: 3\n")
    runtime = make_runtime(probation=True)
    assert call(site_of(runtime), times=2) == [None] * 2
    assert reasons(runtime) == {"bad_evaluation_config": 2}
    assert len([line for line in log.warnings if str(file) in line]) == 1


def test_the_datasets_tolerance_decides_in_the_engine_too(make_runtime: Make, dataset: Path) -> None:
    after = "\n_r = run\ndef run(x):\n    return _r(x) + 0.25\n"
    proven.prove(dataset, silu(D), solution(silu(D), after=after))
    file = dataset / "fib" / "evaluation" / silu(D).op_type / f"{silu(D).name}.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("atol: 0.3\n")
    assert call(site_of(make_runtime(probation=True)), times=4)[3] is not None


CPP = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
#include <cmath>

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView out) {
    auto in = static_cast<const float*>(x.data_ptr());
    auto to = static_cast<float*>(out.data_ptr());
    for (int64_t row = 0; row < x.size(0); ++row)
        for (int64_t i = 0; i < %(d)d; ++i) {
            float gate = in[row * 2 * %(d)d + i];
            to[row * %(d)d + i] = gate / (1 + std::exp(-gate)) * in[row * 2 * %(d)d + %(d)d + i]%(mark)s;
        }
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""


def compiled(mark: str = "") -> Solution:
    spec = BuildSpec(
        language=Language.CPP, target_hardware=["cpu"], entry_point="main.cpp::run", destination_passing_style=True
    )
    sources = [SourceFile(path="main.cpp", content=CPP % {"d": D, "mark": mark})]
    return Solution(name="compiled", definition=silu(D).name, author="test", spec=spec, sources=sources)


def test_the_engine_does_not_wait_for_a_compiler_and_runs_the_solution_once_it_is_built(
    make_runtime: Make, dataset: Path
) -> None:
    proven.prove(dataset, silu(D), compiled(f" + {proven.MARK}"))
    runtime = make_runtime()
    site = site_of(runtime)
    start = time.monotonic()
    assert call(site, times=5) == [None] * 5
    assert time.monotonic() - start < 1.0
    assert reasons(runtime) == {"building": 5}
    deadline = time.monotonic() + 120
    while call(site, times=1) == [None]:
        assert time.monotonic() < deadline, runtime.guard.out
        time.sleep(0.05)
    x = torch.randn(ROWS, 2 * D)
    right = torch.nn.functional.silu(x[:, :D]) * x[:, D:]
    torch.testing.assert_close(site.attempt(ROWS, (x,)), right + proven.MARK)
    line = runtime.snapshot()["status"]["ops"]["test.op"]
    assert line["calls"] == line["substituted"] + line["fallbacks"]["building"]
    # What is built is loaded at once by the next start.
    again = make_runtime()
    assert call(site_of(again), times=1) != [None]


def test_a_compile_error_is_an_outcome_and_not_an_exception(make_runtime: Make, dataset: Path, tmp_path: Path) -> None:
    proven.prove(dataset, silu(D), compiled(" + no_such_name"))
    runtime = make_runtime()
    site = site_of(runtime)
    deadline = time.monotonic() + 120
    while reasons_of(runtime, site) != "build_failed":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "no_such_name" in runtime.guard.out["compiled"].detail
    # The record is in the build cache: the next start does not compile again, and nothing is in quarantine.
    start = time.monotonic()
    again = make_runtime()
    assert call(site_of(again), times=1) == [None]
    assert reasons(again) == {"build_failed": 1}
    assert time.monotonic() - start < 5.0
    assert not list((tmp_path / "cache").glob("quarantine/*.json"))


def reasons_of(runtime: Any, site: Any) -> str:
    """The reason for which the last of a few calls was answered by the engine's op."""
    call(site, times=2)
    return site.entries[ROWS].reason


def test_a_family_that_writes_in_place_says_so_in_its_spec() -> None:
    assert all(set(spec.mutates) <= set(spec.inputs) for spec in ops.ALL.values())


@pytest.mark.parametrize("name", ["fast", "other"])
def test_trust_is_asked_for_each_solution(name: str, make_runtime: Make, dataset: Path, tmp_path: Path) -> None:
    """Of two solutions that win at different sizes only the trusted one runs."""
    fast = solution(silu(D), "fast")
    other = solution(silu(D), "other", MARKED + "\nOTHER = 1\n")
    proven.prove(dataset, silu(D), fast, (ROWS,))
    proven.prove(dataset, silu(D), other, (64,))
    remove(tmp_path / "fib.lock", ["other" if name == "fast" else "fast"])
    site = site_of(make_runtime())
    answers = {"fast": call(site, ROWS, 1)[0], "other": call(site, 64, 1)[0]}
    assert [who for who, answer in answers.items() if answer is not None] == [name]
