"""Runtime: calls meet definitions by structure, never by name; each fallback has its reason; the counts add up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import proven
import pytest
import torch
from proven import silu
from runtime_cases import RMSNORM, Make, call, counts, raising, unbuildable, x

from fib_plugin import ops
from fib_plugin.schema import Definition

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
