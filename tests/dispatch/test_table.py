"""Table: what is proven here, at this size or on both sides of it, with today's source; else the reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import proven
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proven import silu
from table_cases import table_of

from fib_plugin import ops
from fib_plugin.dataset import TraceSet, append_measurements, current_environment
from fib_plugin.dispatch.reason import REMEDIES, Reason
from fib_plugin.dispatch.table import Table
from fib_plugin.schema import content_hash

NAME = silu().name
FAST, OTHER = proven.solution(silu(), "fast"), proven.solution(silu(), "other", "\nOTHER = 1\n")


def table(root: Path, *lines: Any, **options: Any) -> Table:
    """The table of measurements, each (rows, solution, ratio_low) or a Measurement."""
    proven.store(root, silu(), FAST, OTHER)
    made = [
        proven.measurement(line[1], {"batch_size": line[0]}, ratio_low=line[2]) if isinstance(line, tuple) else line
        for line in lines
    ]
    append_measurements(root, "activation", made)
    return table_of(TraceSet.from_path(root), current_environment(), **options)


def chosen(made: Table, rows: int) -> str:
    """The winner's name, else the reason."""
    choice = made.choose(NAME, (rows, 0))
    assert (choice.winner is None) != (choice.reason is None)
    return choice.winner.name if choice.winner else str(choice.reason.value)  # type: ignore[union-attr]


def test_a_measured_size_is_won_by_the_fastest(dataset: Path) -> None:
    assert chosen(table(dataset, (4, FAST, 1.5), (4, OTHER, 1.2)), 4) == "fast"


def test_a_measured_size_that_nobody_wins_stays_with_the_engine_although_its_neighbours_are_won(dataset: Path) -> None:
    made = table(dataset, (2, FAST, 2.0), (4, FAST, 0.7), (8, FAST, 2.0))
    assert [chosen(made, rows) for rows in (2, 4, 8)] == ["fast", "not_faster", "fast"]


@pytest.mark.parametrize(
    ("ratio", "margin", "winner"),
    [(1.04, 0.03, "fast"), (1.03, 0.03, "not_faster"), (1.0, 0.0, "not_faster"), (1.4, 0.5, "not_faster")],
)
def test_a_win_must_exceed_the_margin(dataset: Path, ratio: float, margin: float, winner: str) -> None:
    assert chosen(table(dataset, (4, FAST, ratio), margin=margin), 4) == winner


def test_the_lower_end_of_the_interval_counts_and_not_the_ratio(dataset: Path) -> None:
    line = proven.measurement(FAST, {"batch_size": 4}, ratio=9.0, ratio_low=1.01)
    assert chosen(table(dataset, line), 4) == "not_faster"


# ---- between and beyond ---------------------------------------------------------------------------------------------


def test_between_two_sizes_won_by_one_solution_it_runs(dataset: Path) -> None:
    made = table(dataset, (4, FAST, 2.0), (1000, FAST, 2.0))
    assert {chosen(made, rows) for rows in (5, 100, 999)} == {"fast"}


def test_between_sizes_won_by_different_solutions_none_runs(dataset: Path) -> None:
    assert chosen(table(dataset, (4, FAST, 2.0), (8, OTHER, 2.0)), 6) == "not_faster"


def test_between_a_size_won_and_a_size_lost_none_runs(dataset: Path) -> None:
    made = table(dataset, (4, FAST, 2.0), (8, FAST, 0.9))
    assert [chosen(made, rows) for rows in (5, 7)] == ["not_faster", "not_faster"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, "unmeasured_shape"),
        (4, "unmeasured_shape"),
        (5, "fast"),
        (40, "fast"),
        (41, "unmeasured_shape"),
        (9999, "unmeasured_shape"),
    ],
)
def test_beyond_the_measured_sizes_a_win_reaches_twice_as_far(dataset: Path, rows: int, expected: str) -> None:
    assert chosen(table(dataset, (10, FAST, 2.0), (20, FAST, 2.0)), rows) == expected


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({8: 2.0, 9: 1.5, 11: 1.2}, "fast"),
        ({8: 2.0, 9: 0.9}, "not_faster"),
        ({8: 0.9, 9: 0.8}, "not_faster"),
        ({}, "unmeasured_shape"),
    ],
)
def test_one_choice_for_all_lengths_must_win_at_every_length_that_was_measured(
    dataset: Path, ratios: dict[int, float], expected: str
) -> None:
    """A call in a CUDA graph is chosen once, and replayed with any length."""
    decode = ops.ALL["gqa_paged_decode"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=8)
    made = proven.solution(decode)
    proven.store(dataset, decode, made)
    sizes = {**{(16, kv): ratio for kv, ratio in ratios.items()}, (500, 3): 0.5}
    lines = [
        proven.measurement(
            made,
            {"batch_size": b, "num_pages": 64, "len_indptr": b + 1, "num_kv_indices": b * 2 ** (kv - 1)},
            ratio_low=ratio,
        )
        for (b, kv), ratio in sizes.items()
    ]
    append_measurements(dataset, "gqa_paged", lines)
    choice = table_of(TraceSet.from_path(dataset), current_environment()).choose(decode.name, (16, ops.ANY_LENGTH))
    assert (choice.winner.name if choice.winner else choice.reason and choice.reason.value) == expected


def test_a_neighbour_of_another_kv_length_class_is_no_neighbour(dataset: Path) -> None:
    family = ops.ALL["gqa_paged_decode"]
    decode = family.definition(num_qo_heads=4, num_kv_heads=2, head_dim=8)
    made = proven.solution(decode)
    proven.store(dataset, decode, made)
    sizes = [(2, 8), (64, 8), (16, 9)]
    lines = [
        proven.measurement(made, {"batch_size": b, "num_pages": 64, "len_indptr": 2, "num_kv_indices": 2 ** (kv - 1)})
        for b, kv in sizes
    ]
    append_measurements(dataset, "gqa_paged", lines)
    built = table_of(TraceSet.from_path(dataset), current_environment())
    assert built.choose(decode.name, (10, 8)).winner is not None
    assert built.choose(decode.name, (16, 9)).winner is not None
    assert built.choose(decode.name, (64, 9)).reason is Reason.UNMEASURED_SHAPE
    assert built.choose(decode.name, (16, 7)).reason is Reason.UNMEASURED_SHAPE


def test_a_lost_size_at_the_border_does_not_reach_at_all(dataset: Path) -> None:
    assert chosen(table(dataset, (10, FAST, 2.0), (20, FAST, 0.9)), 21) == "not_faster"


def test_no_measurement_of_the_definition_is_no_solution(dataset: Path) -> None:
    made = table(dataset)
    assert chosen(made, 4) == "no_solution"
    assert made.choose("never_heard_of", (4, 0)).reason is Reason.NO_SOLUTION


def test_a_kv_length_class_that_nobody_measured_is_unmeasured(dataset: Path) -> None:
    family = ops.ALL["gqa_paged_decode"]
    decode = family.definition(num_qo_heads=4, num_kv_heads=2, head_dim=8)
    made = proven.solution(decode)
    proven.store(dataset, decode, made)
    axes = {"batch_size": 2, "num_pages": 64, "len_indptr": 3, "num_kv_indices": 20}
    append_measurements(dataset, "gqa_paged", [proven.measurement(made, axes)])
    built = table_of(TraceSet.from_path(dataset), current_environment())
    near = {**axes, "num_pages": 999, "num_kv_indices": 30}
    far = {**axes, "num_kv_indices": 4000}
    assert built.choose(decode.name, family.point(near)).winner is not None
    assert built.choose(decode.name, family.point(far)).reason is Reason.UNMEASURED_SHAPE


@settings(max_examples=50, deadline=None)
@given(
    won=st.dictionaries(st.integers(1, 64), st.sampled_from(["fast", "other", None]), max_size=6),
    rows=st.integers(1, 150),
)
def test_a_solution_runs_only_where_it_wins_at_the_size_or_on_both_sides_of_it_or_within_reach(
    tmp_path_factory: pytest.TempPathFactory, won: dict[int, str | None], rows: int
) -> None:
    lines = [(size, OTHER if name == "other" else FAST, 2.0 if name else 0.5) for size, name in won.items()]
    name = chosen(table(tmp_path_factory.mktemp("table"), *lines), rows)
    sides = {*sorted(size for size in won if size <= rows)[-1:], *sorted(size for size in won if size >= rows)[:1]}
    if rows in won:
        assert name == (won[rows] or "not_faster")
    elif not won:
        assert name == "no_solution"
    elif len(sides) == 1 and not min(sides) / 2 <= rows <= max(sides) * 2:
        assert name == "unmeasured_shape"
    else:
        winners = {won[size] for size in sides}
        assert name == ((winners.pop() or "not_faster") if len(winners) == 1 else "not_faster")


# ---- what does not count --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["INCORRECT_NUMERICAL", "INCORRECT_SHAPE", "RUNTIME_ERROR", "TIMEOUT"])
def test_a_failed_measurement_never_wins_however_fast(dataset: Path, status: str) -> None:
    line = proven.measurement(FAST, {"batch_size": 4}, status=status, ratio_low=50.0)
    assert chosen(table(dataset, line), 4) == "not_faster"


def test_a_failed_measurement_leaves_the_size_to_a_right_solution(dataset: Path) -> None:
    line = proven.measurement(FAST, {"batch_size": 4}, status="INCORRECT_NUMERICAL", ratio_low=50.0)
    assert chosen(table(dataset, line, (4, OTHER, 1.2)), 4) == "other"


def test_a_passed_measurement_without_an_interval_never_wins(dataset: Path) -> None:
    assert chosen(table(dataset, (4, FAST, None)), 4) == "not_faster"


def test_of_several_workloads_at_one_size_the_worst_counts(dataset: Path) -> None:
    lines = [
        proven.measurement(FAST, {"batch_size": 4}, workload=f"w{at}", ratio_low=ratio)
        for at, ratio in enumerate([3.0, 1.01, 2.0])
    ]
    assert chosen(table(dataset, *lines), 4) == "not_faster"


def test_one_failed_workload_at_a_size_is_enough_to_lose_it(dataset: Path) -> None:
    bad = proven.measurement(FAST, {"batch_size": 4}, workload="w2", status="RUNTIME_ERROR", ratio_low=None)
    assert chosen(table(dataset, (4, FAST, 3.0), bad), 4) == "not_faster"


@pytest.mark.parametrize(("first", "last", "expected"), [(0.5, 2.0, "fast"), (2.0, 0.5, "not_faster")])
def test_of_several_runs_of_one_workload_the_last_counts(
    dataset: Path, first: float, last: float, expected: str
) -> None:
    assert chosen(table(dataset, (4, FAST, first), (4, FAST, last)), 4) == expected


def test_a_measurement_of_another_source_does_not_count(dataset: Path) -> None:
    line = proven.measurement(FAST, {"batch_size": 4}, solution_hash="of an earlier source")
    assert chosen(table(dataset, line), 4) == "changed_since_measured"


def test_a_measurement_of_a_solution_that_is_gone_does_not_count(dataset: Path) -> None:
    line = proven.measurement(FAST, {"batch_size": 4}, solution="removed")
    assert chosen(table(dataset, line), 4) == "changed_since_measured"


@pytest.mark.parametrize(
    "elsewhere", [{"hardware": "another GPU"}, {"libs": {"torch": "1.0.0"}}, {"libs": {"torch": "99.1"}}]
)
def test_a_measurement_from_elsewhere_does_not_count(dataset: Path, elsewhere: dict[str, Any]) -> None:
    line = proven.measurement(FAST, {"batch_size": 4}, **elsewhere)
    assert chosen(table(dataset, line), 4) == "not_measured_here"
    assert chosen(table(dataset, any_hardware=True), 4) == "fast"


def test_a_measurement_from_elsewhere_does_not_spoil_one_from_here(dataset: Path) -> None:
    line = proven.measurement(FAST, {"batch_size": 4}, hardware="another GPU", ratio_low=0.1)
    assert chosen(table(dataset, (4, FAST, 2.0), line), 4) == "fast"


@pytest.mark.parametrize("baseline", [None, "", "fast"])
def test_only_a_measurement_against_another_op_counts(dataset: Path, baseline: str | None) -> None:
    line = proven.measurement(FAST, {"batch_size": 4}, baseline=baseline)
    assert chosen(table(dataset, line), 4) == "no_solution"


def test_a_measurement_without_the_key_axis_is_passed_over(dataset: Path) -> None:
    assert chosen(table(dataset, proven.measurement(FAST, {}), (4, FAST, 2.0)), 4) == "fast"


def test_an_unreadable_line_is_told_and_the_others_count(dataset: Path) -> None:
    table(dataset, (4, FAST, 2.0))
    with next((dataset / "fib/measurements").rglob("*.jsonl")).open("a") as file:
        file.write('{"run": 7}\n')
    problems: list[Any] = []
    assert chosen(table(dataset, problems=problems), 4) == "fast"
    assert len(problems) == 1
    assert "silu_and_mul_fp32_d4.jsonl:2" in str(problems[0])


def test_a_definition_of_no_known_family_has_no_choice(dataset: Path) -> None:
    custom = silu().model_copy(update={"name": "custom", "op_type": "custom"})
    made = proven.solution(custom)
    proven.store(dataset, custom, made)
    append_measurements(dataset, "custom", [proven.measurement(made, {"batch_size": 4})])
    built = table_of(TraceSet.from_path(dataset), current_environment())
    assert built.choose("custom", (4, 0)).reason is Reason.NO_SOLUTION
    assert built.definitions() == []


# ---- what is shown --------------------------------------------------------------------------------------------------


def test_definitions_names_those_with_a_winner(dataset: Path) -> None:
    assert table(dataset, (4, FAST, 2.0)).definitions() == [NAME]


def test_definitions_leaves_out_those_without(dataset: Path) -> None:
    assert table(dataset, (4, FAST, 0.5)).definitions() == []


def test_explain_names_winners_by_size_or_the_reason(dataset: Path) -> None:
    assert table(dataset, (4, FAST, 2.0), (8, OTHER, 2.0)).explain() == {NAME: "4: fast, 8: other"}


def test_explain_says_why_nothing_wins(dataset: Path) -> None:
    line = proven.measurement(FAST, {"batch_size": 4}, hardware="another GPU")
    assert table(dataset, line).explain() == {NAME: "not_measured_here"}


def test_winners_are_named_once_with_what_was_measured(dataset: Path) -> None:
    made = table(dataset, (4, OTHER, 2.0), (8, FAST, 2.0), (16, OTHER, 2.0))
    assert [(w.name, w.hash, w.author) for w in made.winners()] == [
        (solution.name, content_hash(solution), "test") for solution in (FAST, OTHER)
    ]


def test_a_table_without_a_dataset_is_empty() -> None:
    assert table_of(TraceSet(), current_environment()).definitions() == []


def test_every_reason_has_a_remedy() -> None:
    assert set(REMEDIES) == {reason.value for reason in Reason}
