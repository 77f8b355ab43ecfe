"""Runtime: a solution that raises is out everywhere, and strict mode raises what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import proven
import pytest
from proven import silu
from runtime_cases import Make, call, counts, raising, unbuildable, x

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
