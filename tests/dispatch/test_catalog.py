"""Catalog: a dataset as an engine sees it. What is broken in it is told and stops nothing; nothing is read twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import proven
import pytest
from proven import silu
from table_cases import table_of

from fib_plugin import ops
from fib_plugin.dataset import TraceSet, append_measurements, current_environment
from fib_plugin.dispatch.catalog import Catalog, CatalogError, Winner
from fib_plugin.dispatch.reason import Reason
from fib_plugin.schema import Definition, Solution, content_hash

NAME = silu().name
Open = Callable[..., Catalog]


@pytest.fixture
def opened(environment: pytest.MonkeyPatch, dataset: Path, tmp_path: Path) -> Open:
    """Opens the test's dataset in the environment of this process."""
    return lambda **options: Catalog.open(dataset, tmp_path / "cache", current_environment(), **options)


def document(dataset: Path, path: str, content: Any) -> Path:
    file = dataset / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def file_of(dataset: Path, name: str) -> Path:
    return next((dataset / "solutions").rglob(f"{name}.json"))


# ---- what there is --------------------------------------------------------------------------------------------------


def test_definitions_are_found_by_name(opened: Open, dataset: Path) -> None:
    proven.store(dataset, silu())
    catalog = opened()
    assert catalog.definition(NAME) == silu()
    assert catalog.definition("never_heard_of") is None
    assert (NAME in catalog, "never_heard_of" in catalog, catalog.names()) == (True, False, [NAME])


def test_a_definition_is_the_same_object_at_every_call(opened: Open, dataset: Path) -> None:
    proven.store(dataset, silu())
    catalog = opened()
    assert catalog.definition(NAME) is catalog.definition(NAME)
    assert catalog.match(ops.structure(silu())) is catalog.definition(NAME)


def test_a_winner_says_what_was_measured_and_where_it_is(opened: Open, dataset: Path) -> None:
    made = proven.prove(dataset, silu())
    winner = opened().choose(NAME, (4, 0)).winner
    assert winner == Winner("fast", content_hash(made), "test", f"solutions/test/activation/{NAME}/fast.json")


def test_choices_follow_margin_and_hardware_as_asked(opened: Open, dataset: Path) -> None:
    proven.prove(dataset, silu(), ratio_low=1.2, hardware="another GPU")
    assert opened().choose(NAME, (4, 0)).reason is Reason.NOT_MEASURED_HERE
    assert opened(any_hardware=True).choose(NAME, (4, 0)).winner is not None
    assert opened(any_hardware=True, margin=0.3).choose(NAME, (4, 0)).reason is Reason.NOT_FASTER


def test_proven_winners_and_explain_tell_of_the_whole_table(opened: Open, dataset: Path) -> None:
    made = proven.prove(dataset, silu(), sizes=(4, 8))
    wide = silu(d=8)
    proven.prove(dataset, wide, proven.solution(wide, "slow"), ratio_low=0.5)
    catalog = opened()
    assert catalog.proven() == [NAME]
    assert [(w.name, w.hash) for w in catalog.winners()] == [("fast", content_hash(made))]
    assert catalog.explain() == {NAME: "4: fast, 8: fast", wide.name: "not_faster"}


def test_workloads_and_traces_are_not_even_looked_at(opened: Open, dataset: Path) -> None:
    proven.prove(dataset, silu())
    for folder in ("workloads", "traces/test"):
        document(dataset, f"{folder}/activation/{NAME}.jsonl", "garbage\n")
    catalog = opened()
    assert catalog.problems == []
    assert catalog.choose(NAME, (4, 0)).winner is not None
    document(dataset, f"workloads/activation/{NAME}.jsonl", "more garbage\n")
    assert not opened().read_anew


# ---- without choices ------------------------------------------------------------------------------------------------


def test_without_an_environment_there_are_definitions_and_no_choices(dataset: Path, tmp_path: Path) -> None:
    proven.prove(dataset, silu())
    file_of(dataset, "fast").write_text("broken, and of no interest")
    catalog = Catalog.open(dataset, tmp_path / "cache", None)
    assert catalog.match(ops.structure(silu())) == silu()
    assert catalog.choose(NAME, (4, 0)).reason is Reason.APPLY_OFF
    assert (catalog.proven(), catalog.winners(), catalog.explain(), catalog.problems) == ([], [], {}, [])


@pytest.mark.parametrize("environment_given", [True, False])
def test_a_dataset_that_does_not_exist_is_empty(dataset: Path, tmp_path: Path, environment_given: bool) -> None:
    environment = current_environment() if environment_given else None
    catalog = Catalog.open(dataset, tmp_path / "cache", environment)
    reason = Reason.NO_SOLUTION if environment_given else Reason.APPLY_OFF
    assert catalog.choose(NAME, (4, 0)).reason is reason
    assert (catalog.names(), catalog.problems, catalog.match("anything")) == ([], [], None)
    assert not (tmp_path / "cache").exists()


def test_a_file_in_the_datasets_place_is_told(opened: Open, dataset: Path) -> None:
    dataset.write_text("")
    assert [str(dataset) in problem for problem in opened().problems] == [True]


# ---- what stands for a structure ------------------------------------------------------------------------------------


def test_of_definitions_of_one_structure_a_proven_one_is_matched_first(opened: Open, dataset: Path) -> None:
    for name in ("a_first_by_name", "z_last_by_name"):
        proven.store(dataset, silu().model_copy(update={"name": name}))
    assert opened().match(ops.structure(silu())).name == "a_first_by_name"  # type: ignore[union-attr]
    last = silu().model_copy(update={"name": "z_last_by_name"})
    proven.prove(dataset, last)
    assert opened().match(ops.structure(silu())).name == "z_last_by_name"  # type: ignore[union-attr]


def test_a_definition_that_was_measured_but_never_wins_is_not_preferred(opened: Open, dataset: Path) -> None:
    proven.store(dataset, silu().model_copy(update={"name": "a_first_by_name"}))
    proven.prove(dataset, silu().model_copy(update={"name": "z_last_by_name"}), ratio_low=0.5)
    assert opened().match(ops.structure(silu())).name == "a_first_by_name"  # type: ignore[union-attr]


def test_a_definition_whose_constant_is_no_number_is_there_but_never_matched(opened: Open, dataset: Path) -> None:
    odd = silu().model_copy(update={"reference": "EPS = 'small'\n" + silu().reference})
    proven.store(dataset, odd)
    catalog = opened()
    assert catalog.definition(NAME) == odd
    assert catalog.match(ops.structure(silu())) is None


# ---- a winner's sources ---------------------------------------------------------------------------------------------


def test_a_winner_is_read_with_its_sources(opened: Open, dataset: Path) -> None:
    made = proven.prove(dataset, silu())
    catalog = opened()
    assert catalog.solution(catalog.choose(NAME, (4, 0)).winner) == made  # type: ignore[arg-type]


def _edited(file: Path) -> None:
    file.write_text(file.read_text().replace("100.0", "200.0"))


def _renamed(file: Path) -> None:
    file.write_text(file.read_text().replace('"fast"', '"quick"'))


@pytest.mark.parametrize(
    "spoil", [_edited, _renamed, Path.unlink, lambda file: file.write_text("{"), lambda file: file.write_text("{}")]
)
def test_a_winner_that_is_no_longer_what_was_measured_is_not_handed_out(
    opened: Open, dataset: Path, spoil: Callable[[Path], None]
) -> None:
    proven.prove(dataset, silu())
    catalog = opened()
    winner = catalog.choose(NAME, (4, 0)).winner
    file = file_of(dataset, "fast")
    spoil(file)
    with pytest.raises(CatalogError, match=str(file)):
        catalog.solution(winner)  # type: ignore[arg-type]


# ---- what is broken -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        {"name": "x", "op_type": "y", "axes": {}, "inputs": {}, "outputs": {}, "reference": "def walk(): ..."},
    ],
)
def test_a_broken_definition_is_told_and_the_others_count(opened: Open, dataset: Path, content: Any) -> None:
    proven.prove(dataset, silu())
    file = document(dataset, "definitions/activation/a_broken.json", content)
    catalog = opened()
    assert catalog.names() == [NAME]
    assert catalog.choose(NAME, (4, 0)).winner is not None
    assert all(str(file) in problem for problem in catalog.problems)
    assert catalog.problems


def test_a_reference_too_deep_to_be_parsed_costs_its_definition_only(opened: Open, dataset: Path) -> None:
    proven.store(dataset, silu())
    deep = {**json.loads((dataset / f"definitions/activation/{NAME}.json").read_text()), "name": "deep"}
    deep["reference"] += "\nX = " + "-" * 20_000 + "1"
    document(dataset, "definitions/activation/deep.json", deep)
    catalog = opened()
    assert catalog.names() == [NAME]
    assert len(catalog.problems) == 1


@pytest.mark.parametrize("content", ["{", "[]", "{}", b"\xff\xfe".decode("latin1")])
def test_a_broken_solution_is_told_and_the_others_count(opened: Open, dataset: Path, content: str) -> None:
    proven.prove(dataset, silu())
    file = document(dataset, "solutions/someone/activation/x/broken.json", content)
    catalog = opened()
    assert catalog.choose(NAME, (4, 0)).winner is not None
    assert catalog.problems
    assert all(str(file) in problem for problem in catalog.problems)


def test_a_broken_line_is_told_with_its_number_and_the_others_count(opened: Open, dataset: Path) -> None:
    proven.prove(dataset, silu())
    file = next((dataset / "fib/measurements").rglob("*.jsonl"))
    with file.open("a") as lines:
        lines.write('{"run": 7}\n')
    catalog = opened()
    assert catalog.choose(NAME, (4, 0)).winner is not None
    assert len(catalog.problems) == 1
    assert f"{file}:2" in catalog.problems[0]


@pytest.mark.parametrize(
    "folder", ["definitions/activation", "solutions/test/activation", "fib/measurements/activation"]
)
def test_a_link_that_leads_nowhere_is_told(opened: Open, dataset: Path, folder: str) -> None:
    proven.prove(dataset, silu())
    link = dataset / folder / ("gone.jsonl" if "measurements" in folder else "gone.json")
    link.symlink_to(dataset / "nowhere")
    catalog = opened()
    assert [str(link) in problem for problem in catalog.problems] == [True]
    assert catalog.choose(NAME, (4, 0)).winner is not None


def test_a_size_that_no_machine_counts_costs_no_start(opened: Open, dataset: Path) -> None:
    made = proven.prove(dataset, silu())
    append_measurements(dataset, "activation", [proven.measurement(made, {"batch_size": 10**30})])
    catalog = opened()
    assert catalog.choose(NAME, (4, 0)).winner is not None


def test_of_two_files_that_claim_a_name_the_first_has_it_as_in_a_trace_set(opened: Open, dataset: Path) -> None:
    """Folder by folder: `a/` comes before `a-b/`, although '-' comes before '/'."""
    made = proven.prove(dataset, silu())
    other = proven.solution(silu(), "fast", "\nOTHER = 1\n")
    file_of(dataset, "fast").rename(document(dataset, "solutions/a/x/fast.json", ""))
    second = document(dataset, "solutions/a-b/x/fast.json", other.model_dump_json(exclude_unset=True))
    definition = document(dataset, "definitions/zz/again.json", silu().model_dump_json(exclude_unset=True))
    catalog = opened()
    assert TraceSet.from_path(dataset, strict=False).solutions[NAME] == [made]
    winner = catalog.choose(NAME, (4, 0)).winner
    assert winner is not None
    assert winner.file == "solutions/a/x/fast.json"
    assert (
        sorted(str(path) in problem for path in (second, definition) for problem in catalog.problems).count(True) == 2
    )


def test_a_catalog_chooses_as_a_table_of_the_whole_dataset_does(opened: Open, dataset: Path) -> None:
    made: dict[Definition, list[Solution]] = {}
    for number, definition in enumerate([silu(), silu(d=8), ops.ALL["gemm"].definition(n=8, k=8, dtype="float32")]):
        solutions = [proven.solution(definition, f"{number}_{at}", f"\nVARIANT = {at}\n") for at in range(3)]
        for at, solution in enumerate(solutions):
            ratio = 0.9 + 0.3 * ((number + at) % 3)
            proven.prove(dataset, definition, solution, sizes=(2, 8 + at, 64), ratio_low=ratio)
        made[definition.name] = solutions  # type: ignore[index]
    catalog = opened()
    table = table_of(TraceSet.from_path(dataset), current_environment())
    for name in made:
        for size in range(1, 200):
            ours, theirs = catalog.choose(name, (size, 0)), table.choose(name, (size, 0))  # type: ignore[arg-type]
            assert ours.reason is theirs.reason
            assert (ours.winner and ours.winner.name) == (theirs.winner and theirs.winner.name)
    assert catalog.explain() == table.explain()
    assert sorted(catalog.proven()) == sorted(table.definitions())
