"""Solutions that leave their outputs where the engine's op does: only in a form that a trial saw to be right."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from proven import prove, solution

from fib_plugin import ops
from fib_plugin.build import Runnable
from fib_plugin.dispatch.in_place import in_place
from fib_plugin.dispatch.site import Original, Site

Make = Callable[..., Any]
ROWS, WIDTH, EPS = 4, 16, 1e-5
FUSED = ops.ALL["fused_add_rmsnorm"].definition(hidden_size=WIDTH, eps=EPS, dtype="float32")

_DPS = """
_reference = run


def run(x, residual, weight, output, residual_out):
    normalised, total = _reference(x, residual, weight)
    {body}
"""
#: Reads all of a row before it writes any of it.
SAFE = _DPS.format(body="residual_out.copy_(total), output.copy_(normalised)")
#: Reads what it has overwritten, where the two are one.
UNSAFE = _DPS.format(body="output.copy_(normalised), residual_out.copy_(x + residual)")
WRONG = _DPS.format(body="residual_out.copy_(total), output.copy_(normalised + 1)")


def reference(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
    scope: dict[str, Any] = {}
    exec(FUSED.reference, scope)
    return scope["run"](x, residual, weight)


def engine(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
    time.sleep(1e-3)
    normalised, total = reference(x, residual, weight)
    return x.copy_(normalised), residual.copy_(total)


def site_of(runtime: Any) -> Site:
    found: Site = runtime.site("test.norm", FUSED, original=Original(engine, places=(0, 1)))
    return found


def inputs(spare: int = 0) -> tuple[torch.Tensor, ...]:
    x, residual = torch.randn(2, ROWS, WIDTH + spare)[..., :WIDTH].unbind()
    return x, residual, torch.ones(WIDTH)


def answer(site: Site, given: tuple[torch.Tensor, ...], trials: int = 3) -> Any:
    """What the site answers after its trials; nothing of the answer may be off."""
    for _ in range(trials):
        assert site.attempt(ROWS, inputs()) is None
    before = [tensor.clone() for tensor in given]
    found = site.attempt(ROWS, given)
    if found is not None:
        for ours, theirs in zip(found, reference(*before), strict=True):
            torch.testing.assert_close(ours, theirs)
    return found


def test_a_solution_that_can_writes_in_the_place_of_its_inputs(make_runtime: Make, dataset: Path) -> None:
    prove(dataset, FUSED, solution(FUSED, after=SAFE, dps=True))
    given = inputs()
    found = answer(site_of(make_runtime(probation=True)), given)
    assert found[0] is given[0]
    assert found[1] is given[1]


def test_one_that_cannot_is_tried_again_with_memory_of_its_own(make_runtime: Make, dataset: Path) -> None:
    prove(dataset, FUSED, solution(FUSED, after=UNSAFE, dps=True))
    runtime, given = make_runtime(probation=True), inputs()
    # One call more: the first one showed that it cannot.
    found = answer(site_of(runtime), given, trials=4)
    assert found[0].data_ptr() != given[0].data_ptr()
    assert not runtime.guard.out


def test_a_wrong_one_is_out_whatever_its_form(make_runtime: Make, dataset: Path) -> None:
    prove(dataset, FUSED, solution(FUSED, after=WRONG, dps=True))
    runtime = make_runtime(probation=True)
    assert answer(site_of(runtime), inputs(), trials=5) is None
    assert [record.reason for record in runtime.guard.out.values()] == ["wrong_here"]


@pytest.mark.parametrize("case", ["returns", "no trial", "gaps"])
def test_everything_else_gets_memory_of_its_own(make_runtime: Make, dataset: Path, case: str) -> None:
    after = {"returns": "\n"}.get(case, SAFE)
    prove(dataset, FUSED, solution(FUSED, after=after, dps=case != "returns"))
    given = inputs(spare=8 if case == "gaps" else 0)
    before = [tensor.clone() for tensor in given]
    site = site_of(make_runtime(probation=case != "no trial"))
    found = answer(site, given, trials=0 if case == "no trial" else 3)
    assert found[0].data_ptr() != given[0].data_ptr()
    assert all(map(torch.equal, given, before))


@pytest.mark.parametrize(
    ("places", "mutable"),
    [((0, 1), ("hidden_states",)), ((0,), ("hidden_states", "residual")), ((0, 2), ("hidden_states", "weight"))],
    ids=["an input that stays", "one place for two outputs", "an input of another shape"],
)
def test_there_is_no_such_form_where_outputs_find_no_place(places: Any, mutable: Any) -> None:
    made = Runnable.resolve(solution(FUSED, dps=True), FUSED, lambda *tensors: None)
    assert in_place(made, (0, 1), ("hidden_states", "residual")) is not None
    assert in_place(made, places, mutable) is None


def test_an_output_with_nan_stays_where_it_is_and_is_looked_at(make_runtime: Make, dataset: Path) -> None:
    prove(dataset, FUSED, solution(FUSED, after=SAFE, dps=True))
    site, given = site_of(make_runtime(probation=True, nan_check_every=1)), inputs()
    answer(site, inputs())
    given[0][0, 0] = float("nan")
    found = site.attempt(ROWS, given)
    assert found[0] is given[0]
    assert site.entries[ROWS].trial is not None
