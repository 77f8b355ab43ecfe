"""Which workloads represent a definition."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fib_plugin.dataset.curation import Axes, Calls, Candidate, KeyAxes, select, standing

ROWS = KeyAxes(("M",))
DECODE = KeyAxes(("batch_size", "num_kv_indices"), "num_kv_indices", "len_indptr")


def rows(*sizes: int) -> list[Candidate]:
    return [Candidate(f"w{size}", {"M": size}) for size in sizes]


def called(**counts: int) -> list[Calls]:
    return [Calls({"M": int(name[1:])}, count) for name, count in counts.items()]


def decode(batch: int, length: int) -> Axes:
    return {"batch_size": batch, "len_indptr": batch + 1, "num_kv_indices": batch * length, "num_pages": 999}


def area(axes: Axes) -> float:
    return float(axes["M"])


def kept(candidates: Sequence[Candidate], calls: Sequence[Calls], keep: int) -> set[str]:
    return select(candidates, calls, ROWS, area, keep)


def test_all_are_kept_when_there_are_no_more_than_asked() -> None:
    assert kept(rows(1, 2, 3), [], 3) == {"w1", "w2", "w3"}


def test_the_extremes_come_first() -> None:
    calls = called(m40=1000, m41=900, m42=800)
    assert kept(rows(*range(1, 100)), calls, 2) == {"w1", "w99"}


def test_the_most_called_shape_is_kept_after_the_extremes() -> None:
    assert kept(rows(*range(1, 100)), called(m37=10, m38=9), 3) == {"w1", "w99", "w37"}


def test_every_size_class_gets_one_although_others_are_called_more() -> None:
    found = kept(rows(*range(1, 256)), called(m200=9, m201=8, m202=7, m203=6), 11)
    assert {int(name[1:]).bit_length() for name in found} == set(range(1, 9))


def test_the_most_called_shape_of_a_class_represents_it() -> None:
    assert "w21" in kept(rows(*range(1, 256)), called(m200=9, m21=2, m20=1), 11)


def test_what_is_left_goes_to_the_most_called_shapes() -> None:
    assert kept(rows(*range(1, 9)), called(m6=5, m3=4, m7=3), 5) == {"w1", "w8", "w6", "w3", "w7"}


def test_other_contents_at_a_shape_come_last_one_of_each_shape_in_turn() -> None:
    candidates = [Candidate(f"{name}{size}", {"M": size}) for size in (1, 2) for name in "abc"]
    assert kept(candidates, called(m2=5), 4) == {"a1", "a2", "b1", "b2"}


def test_extremes_of_work_are_kept_although_no_axis_is_extreme_there() -> None:
    keys = KeyAxes(("M", "K"))
    sizes = [(1, 50), (50, 1), (40, 40), (2, 2), (30, 30)]
    candidates = [Candidate(f"{m}x{k}", {"M": m, "K": k}) for m, k in sizes]
    found = select(candidates, [], keys, lambda axes: axes["M"] * axes["K"], 4)
    assert found == {"1x50", "50x1", "40x40", "2x2"}


def grid(*sizes: str) -> list[Candidate]:
    return [Candidate(size, dict(zip("MK", map(int, size.split("x")), strict=True))) for size in sizes]


def test_the_smallest_and_largest_along_each_axis_are_kept() -> None:
    candidates = grid("1x500", "1000x2", "500x1", "2x1000", "30x30", "40x40")
    found = select(candidates, [], KeyAxes(("M", "K")), lambda axes: 1.0, 5)
    assert found > {"1x500", "1000x2", "500x1", "2x1000"}


def test_when_not_every_class_can_have_one_the_most_called_classes_have() -> None:
    calls = called(m200=9, m100=3, m9=2, m10=2)  # class 64-127 was called three times, class 8-15 four times
    assert kept(rows(*range(1, 256)), calls, 4) == {"w1", "w255", "w200", "w10"}


def test_of_combinations_of_classes_the_most_called_come_first() -> None:
    counts = {"2x2": 100, "4x1": 5, "1x4": 4, "2x4": 2, "4x2": 1}
    candidates = grid(*(f"{m}x{k}" for m in (1, 2, 4) for k in (1, 2, 4)))
    calls = [Calls(one.axes, counts.get(one.identity, 0)) for one in candidates]
    found = select(candidates, calls, KeyAxes(("M", "K")), lambda axes: axes["M"] * axes["K"], 6)
    assert found == {"1x1", "4x4", "1x4", "4x1", "2x2", "2x4"}


def test_of_contents_at_one_shape_that_whose_axes_were_all_called_comes_first() -> None:
    twins = [Candidate(name, {**decode(2, 8), "num_pages": pages}) for name, pages in (("a", 10), ("b", 20))]
    call = Calls({**decode(2, 8), "num_pages": 20}, 7)
    assert select(twins, [call], DECODE, lambda axes: 1.0, 1) == {"b"}


def test_kv_entries_count_per_request() -> None:
    assert DECODE.point(decode(4, 100)) == (4, 100)
    assert DECODE.cell(decode(4, 100)) == (3, 7)
    assert DECODE.labels() == ["batch_size", "num_kv_indices per request"]


def test_attention_is_laid_out_by_kv_entries_per_request() -> None:
    shapes = [(batch, length) for batch in (1, 2, 4, 8) for length in (16, 256, 4096)]
    candidates = [Candidate(f"{b}:{n}:{extra}", decode(b, n + extra)) for b, n in shapes for extra in range(4)]
    found = select(candidates, [], DECODE, lambda axes: axes["num_kv_indices"], 16)
    assert {DECODE.cell(decode(b, n)) for b, n in shapes} == {
        DECODE.cell(one.axes) for one in candidates if one.identity in found
    }


def test_an_axis_that_is_no_key_axis_does_not_make_another_shape() -> None:
    assert DECODE.sizes(decode(4, 100)) == DECODE.sizes({**decode(4, 100), "num_pages": 5})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9)), min_size=1, max_size=120, unique=True),
    st.dictionaries(st.integers(0, 300), st.integers(0, 5), max_size=40),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_the_set_does_not_depend_on_order_and_choosing_from_it_again_keeps_it(
    shapes: list[tuple[int, int]], counts: dict[int, int], keep: int, chance: random.Random
) -> None:
    candidates = [Candidate(f"{size}.{content}", {"M": size}) for size, content in shapes]
    calls = [Calls({"M": size}, count) for size, count in counts.items()]
    found = kept(candidates, calls, keep)
    assert len(found) == min(keep, len(candidates))
    assert found <= {one.identity for one in candidates}
    chance.shuffle(candidates)
    chance.shuffle(calls)
    assert kept([*candidates, candidates[0]], calls, keep) == found
    assert kept([one for one in candidates if one.identity in found], calls, keep) == found


# ---- what the kept ones stand for ------------------------------------------------------------------------------------


def cost(axes: Axes) -> float:
    return 10.0 * axes["M"]


def test_a_call_is_stood_for_exactly_by_class_or_not_at_all() -> None:
    stood = standing(rows(4, 100), called(m4=5, m6=3, m16=2), ROWS, cost)
    assert stood.calls == 10
    assert (stood.exact, stood.by_class) == (0.5, 0.8)
    assert stood.exact_time == pytest.approx(4 * 5 / (4 * 5 + 6 * 3 + 16 * 2))
    assert stood.by_class_time == pytest.approx((4 * 5 + 6 * 3) / (4 * 5 + 6 * 3 + 16 * 2))
    assert stood.stands_for == {"w4": 8, "w100": 0}


def test_the_nearest_of_its_class_stands_for_a_call() -> None:
    stood = standing(rows(64, 127), called(m70=1, m110=10, m128=100), ROWS, cost)
    assert stood.stands_for == {"w64": 1, "w127": 10}


def test_nearness_counts_doublings_and_not_differences() -> None:
    assert standing(rows(64, 127), called(m93=1), ROWS, cost).stands_for == {"w64": 0, "w127": 1}


def test_of_contents_at_one_shape_that_with_all_axes_equal_stands_for_the_call() -> None:
    twins = [Candidate(name, {**decode(2, 8), "num_pages": pages}) for name, pages in (("a", 10), ("b", 20))]
    call = Calls({**decode(2, 8), "num_pages": 20}, 7)
    assert standing(twins, [call], DECODE, lambda axes: 1.0).stands_for == {"a": 0, "b": 7}


def test_calls_whose_axes_cannot_be_read_count_and_are_stood_for_by_nothing() -> None:
    assert standing(rows(4), called(m4=1), ROWS, cost, unread=3).exact == 0.25


def test_without_calls_there_are_no_shares() -> None:
    stood = standing(rows(4), [], ROWS, cost)
    assert (stood.calls, stood.exact, stood.by_class, stood.exact_time) == (0, None, None, None)


def test_of_equally_near_workloads_that_with_equal_key_axes_stands_for_the_call() -> None:
    # 401 and 400 entries of four requests are 100 each.
    kept = [Candidate(name, {**decode(4, 100), "num_kv_indices": size}) for name, size in (("a", 401), ("b", 400))]
    call = Calls({**decode(4, 100), "num_pages": 5}, 3)
    stood = standing(kept, [call], DECODE, lambda axes: 1.0)
    assert (stood.exact, stood.stands_for) == (1.0, {"a": 0, "b": 3})
