"""Evidence: failures always count, wins only against the op that is displaced today, live ones as the latest word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import proven
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proven import silu

from fib_plugin import ops
from fib_plugin.dataset import Measurement, current_environment
from fib_plugin.dispatch.evidence import Evidence, Winner
from fib_plugin.dispatch.table import Table
from fib_plugin.schema import Solution, content_hash

NAME = silu().name
FAST, OTHER = proven.solution(silu(), "fast"), proven.solution(silu(), "other", "\nOTHER = 1\n")
ENGINE = proven.solution(silu(), "engine_op", "\nENGINE = 1\n").model_copy(update={"author": "engine"})
FAMILY = ops.family_of(silu())
assert FAMILY is not None


def stored(*solutions: Solution) -> dict[str, Winner]:
    return {s.name: Winner(s.name, content_hash(s), s.author) for s in solutions}


def bench(ratio: float | None, rows: int = 4, made: Solution = FAST, **changed: Any) -> Measurement:
    """A measurement by `fib bench`; its ``ratio`` is the lower end."""
    return proven.measurement(made, {"batch_size": rows}, ratio_low=ratio, **changed)


def failed(made: Solution = FAST, **changed: Any) -> Measurement:
    """As `fib bench` writes it: what fails is not timed, so it was compared with nothing."""
    fields: dict[str, Any] = {"status": "RUNTIME_ERROR", "baseline": "", "ratio": None, "ratio_low": None}
    return proven.measurement(made, {"batch_size": 4}, **{**fields, **changed})


def live(
    low: float | None, ratio: float | None = None, rows: int = 4, made: Solution = FAST, **changed: Any
) -> Measurement:
    """What probation wrote down: each under a workload of its own."""
    value = low if ratio is None else ratio
    at = changed.pop("timestamp", "2026-01-02T00:00:00+00:00")
    fields = {"ratio": value, "ratio_low": low, "source": "live", "workload": f"live-{at}-{low}", "timestamp": at}
    return proven.measurement(made, {"batch_size": rows}, **{**fields, **changed})


def table(lines: Sequence[Measurement], *more: Solution, **options: Any) -> Table:
    evidence = Evidence(stored(FAST, OTHER, *more), {NAME: FAMILY}, current_environment(), **options)  # type: ignore[dict-item]
    for line in lines:
        evidence.add(line)
    return Table(evidence.standings(), evidence.rejected)


def chosen(lines: Sequence[Measurement], *more: Solution, rows: int = 4, **options: Any) -> str:
    """Who runs at ``rows``, else the reason."""
    choice = table(lines, *more, **options).choose(NAME, (rows, 0))
    return choice.winner.name if choice.winner else str(choice.reason.value)  # type: ignore[union-attr]


# ---- the baseline ---------------------------------------------------------------------------------------------------


def test_a_win_against_the_stored_op_counts() -> None:
    line = bench(1.9, baseline="engine_op", baseline_hash=content_hash(ENGINE))
    assert chosen([line], ENGINE) == "fast"


@pytest.mark.parametrize("digest", ["of an earlier adapter", "", None])
def test_a_win_against_an_op_that_changed_does_not_count(digest: str | None) -> None:
    line = bench(1.9, baseline="engine_op", baseline_hash=digest)
    assert chosen([line], ENGINE) == "changed_since_measured"


def test_a_win_against_a_solution_that_no_engine_runs_does_not_count() -> None:
    line = bench(1.9, baseline="other", baseline_hash=content_hash(OTHER))
    assert chosen([line]) == "changed_since_measured"


def test_a_win_against_an_op_that_is_not_stored_counts() -> None:
    assert chosen([bench(1.9, baseline="never_stored", baseline_hash="any")]) == "fast"


def test_a_loss_counts_whatever_became_of_the_op_it_lost_to() -> None:
    lost = bench(0.9, workload="w2", baseline="engine_op", baseline_hash="of an earlier adapter")
    assert chosen([bench(1.9), lost], ENGINE) == "not_faster"


# ---- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [None, ""])
def test_a_failure_that_was_compared_with_nothing_loses_the_size(baseline: str | None) -> None:
    assert chosen([bench(1.9), failed(workload="w2", baseline=baseline)]) == "not_faster"


def test_a_failure_after_a_win_of_the_same_workload_takes_it_back() -> None:
    assert chosen([bench(1.9), failed()]) == "not_faster"
    assert chosen([failed(), bench(1.9)]) == "fast"


def test_a_failure_of_the_engines_own_op_says_nothing() -> None:
    assert chosen([failed(ENGINE)], ENGINE) == "no_solution"


def test_a_failure_of_another_source_says_nothing_about_this_one() -> None:
    assert chosen([bench(1.9), failed(workload="w2", solution_hash="earlier")]) == "fast"


# ---- live -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [None, "never_stored"])
def test_a_clear_live_win_is_a_win(baseline: str | None) -> None:
    assert chosen([live(1.2, baseline=baseline)]) == "fast"


def test_a_live_win_against_an_op_that_changed_does_not_count() -> None:
    assert chosen([live(1.2, baseline="engine_op", baseline_hash="earlier")], ENGINE) == "changed_since_measured"


@pytest.mark.parametrize("status", ["INCORRECT_NUMERICAL", "RUNTIME_ERROR", "INCORRECT_SHAPE"])
def test_a_solution_that_was_wrong_live_loses_the_size(status: str) -> None:
    assert chosen([bench(1.9), live(None, status=status)]) == "not_faster"


def test_a_solution_that_was_slower_live_loses_the_size() -> None:
    assert chosen([bench(1.9), live(0.8, ratio=0.95)]) == "not_faster"


@pytest.mark.parametrize(("low", "ratio"), [(0.98, 1.0), (1.03, 1.2), (None, 1.2), (None, None)])
def test_a_live_result_within_the_margin_says_nothing(low: float | None, ratio: float | None) -> None:
    line = live(low, ratio=ratio)
    assert chosen([bench(1.9), line]) == "fast"
    assert chosen([line]) == "no_solution"
    # Not even a measured size comes of it: 8 lies between two that are won.
    assert chosen([bench(1.9, rows=4), live(low, ratio=ratio, rows=8), bench(1.9, rows=16)], rows=8) == "fast"


def test_a_live_loss_speaks_for_its_size_alone() -> None:
    lines = [bench(1.9, rows=rows) for rows in (4, 8, 16)] + [live(0.5, rows=8)]
    assert [chosen(lines, rows=rows) for rows in (4, 6, 8, 12, 16)] == [
        "fast",
        "not_faster",
        "not_faster",
        "not_faster",
        "fast",
    ]


def test_a_live_loss_at_a_size_that_was_not_measured_stops_its_neighbours_there() -> None:
    lines = [bench(1.9, rows=4), bench(1.9, rows=16), live(0.5, rows=8)]
    assert [chosen(lines, rows=rows) for rows in (4, 8, 16)] == ["fast", "not_faster", "fast"]


def test_a_live_win_does_not_mend_a_measured_loss() -> None:
    assert chosen([bench(0.9), live(1.5)]) == "not_faster"


def test_a_live_loss_leaves_the_size_to_another_solution() -> None:
    assert chosen([bench(1.9), bench(1.2, made=OTHER), live(0.5)]) == "other"


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_live_results_the_latest_counts_whatever_the_order_of_lines(order: int) -> None:
    early = live(0.5, timestamp="2026-01-02T00:00:00+00:00")
    late = live(1.5, timestamp="2026-01-02T03:00:00+02:00")  # an hour later
    assert chosen([early, late][::order]) == "fast"
    early, late = (live(1.5, timestamp=early.timestamp), live(0.5, timestamp=late.timestamp))
    assert chosen([early, late][::order]) == "not_faster"


def test_of_live_results_of_one_instant_the_later_line_counts() -> None:
    assert chosen([live(0.5), live(1.5)]) == "fast"
    assert chosen([live(1.5), live(0.5)]) == "not_faster"


def test_a_live_result_from_before_the_last_bench_is_out_of_date() -> None:
    early = live(0.5, timestamp="2025-12-31T23:59:59+00:00")
    assert chosen([bench(1.9), early]) == "fast"
    assert chosen([early, bench(1.9)]) == "fast"


def test_a_live_result_is_not_out_of_date_because_another_size_was_benchmarked_since() -> None:
    found = live(0.5, timestamp="2025-12-31T23:59:59+00:00")
    assert chosen([found, bench(1.9, rows=8)]) == "not_faster"
    assert chosen([found, bench(1.2, made=OTHER), bench(1.9, rows=8)]) == "other"


def test_a_bench_that_does_not_count_does_not_outdate_a_live_result() -> None:
    elsewhere = bench(1.9, hardware="another GPU", timestamp="2027-01-01T00:00:00+00:00")
    assert chosen([bench(1.9), live(0.5), elsewhere]) == "not_faster"


@pytest.mark.parametrize("changed", [{"hardware": "another GPU"}, {"libs": {"torch": "1.0.0"}}])
def test_a_live_result_from_elsewhere_does_not_count(changed: dict[str, Any]) -> None:
    assert chosen([bench(1.9), live(0.5, **changed)]) == "fast"
    assert chosen([live(1.5, **changed)]) == "not_measured_here"
    assert chosen([live(1.5, **changed)], any_hardware=True) == "fast"


def test_a_live_result_of_another_source_does_not_count() -> None:
    assert chosen([bench(1.9), live(0.5, solution_hash="earlier")]) == "fast"


RATIOS = st.sampled_from([0.5, 1.0, 1.02, 1.5])
LINES = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["fast", "other"]), st.integers(1, 12), RATIOS, st.integers(0, 5)),
    max_size=14,
)


@given(LINES, st.integers(1, 30))
def test_bench_and_live_results_together_choose_as_the_rules_say(
    lines: list[tuple[bool, str, int, float, int]], rows: int
) -> None:
    """The rules of Evidence and Table, told once more without an index, a stream or a memory."""
    made = {"fast": FAST, "other": OTHER}
    measured = [
        (live if is_live else bench)(
            ratio, rows=size, made=made[name], timestamp=f"2026-01-01T00:00:0{at}+00:00", workload=f"{size}/{is_live}"
        )
        for is_live, name, size, ratio, at in lines
    ]

    def ratio_at(name: str, size: int) -> float | None:
        runs = [(ratio, at) for is_live, n, s, ratio, at in lines if not is_live and (n, s) == (name, size)]
        seen = [
            (at, number, ratio)
            for number, (is_live, n, s, ratio, at) in enumerate(lines)
            if is_live and (n, s) == (name, size)
        ]
        found = [runs[-1][0]] if runs else []
        if seen:
            at, _, ratio = max(seen)
            if (not runs or at >= runs[-1][1]) and not 1 <= ratio <= 1.03:
                found.append(0.0 if ratio < 1 else ratio)
        return min(found, default=None)

    ratios = {size: {n: r for n in made if (r := ratio_at(n, size)) is not None} for size in range(1, 13)}
    won = {}
    for size, found in ratios.items():
        if found:
            best = max(found, key=lambda name: (found[name], name))
            won[size] = best if found[best] > 1.03 else None
    sides = {*sorted(size for size in won if size <= rows)[-1:], *sorted(size for size in won if size >= rows)[:1]}
    if not won:
        expected = "no_solution"
    elif rows in won:
        expected = won[rows] or "not_faster"
    elif len(sides) == 1 and not min(sides) / 2 <= rows <= max(sides) * 2:
        expected = "unmeasured_shape"
    else:
        winners = {won[size] for size in sides}
        expected = (winners.pop() or "not_faster") if len(winners) == 1 else "not_faster"
    assert chosen(measured, rows=rows) == expected
