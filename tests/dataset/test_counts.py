"""Call counts of many processes."""

import pytest
from sample_dataset import Dataset

from fib_plugin.dataset import axes_key, load_counts
from fib_plugin.dataset.counts import read_counts, take_larger
from fib_plugin.schema import SchemaError


def counts(dataset: Dataset, name: str, calls: dict[str, dict[str, int]], **changed: object) -> None:
    content = {"version": 1, "host": "h", "pid": 1, "started": "2026-01-01", "calls": calls, **changed}
    dataset.document(f"fib/counts/{name}.json", content)


def test_the_key_of_a_shape_does_not_depend_on_the_order_of_its_axes() -> None:
    assert axes_key({"m": 2, "b": 1}) == axes_key({"b": 1, "m": 2}) == '{"b":1,"m":2}'


def test_counts_of_processes_add_up(dataset: Dataset) -> None:
    counts(dataset, "h.1.1", {"d": {"a": 1, "b": 2}})
    counts(dataset, "h.2.1", {"d": {"b": 3}, "e": {"c": 4}})
    assert load_counts(dataset.root) == {"d": {"a": 1, "b": 5}, "e": {"c": 4}}


def test_a_dataset_without_counts_has_none(dataset: Dataset) -> None:
    assert load_counts(dataset.root) == {}


def test_an_unreadable_file_is_a_problem_and_the_others_count(dataset: Dataset) -> None:
    counts(dataset, "h.1.1", {"d": {"a": 1}})
    counts(dataset, "h.2.1", {"d": {"a": -1.5}})  # type: ignore[dict-item]
    counts(dataset, "h.3.1", {"d": {"a": 1}}, version=2)
    problems: list[SchemaError] = []
    assert load_counts(dataset.root, problems) == load_counts(dataset.root) == {"d": {"a": 1}}
    assert [problem.field for problem in problems] == [None, "version"]


def test_of_two_copies_of_one_process_each_larger_number_is_taken(dataset: Dataset) -> None:
    counts(dataset, "old", {"d": {"a": 1, "b": 9}})
    counts(dataset, "new", {"d": {"a": 5, "b": 2}, "e": {"c": 1}})
    folder = dataset.root / "fib/counts"
    assert take_larger(folder / "new.json", folder / "old.json")
    assert read_counts(folder / "old.json").calls == {"d": {"a": 5, "b": 9}, "e": {"c": 1}}
    assert not take_larger(folder / "new.json", folder / "old.json")


def test_a_broken_copy_does_not_touch_the_good_one(dataset: Dataset) -> None:
    counts(dataset, "old", {"d": {"a": 1}})
    dataset.document("fib/counts/new.json", {})
    before = dataset.files()
    with pytest.raises(SchemaError, match="unreadable call counts"):
        take_larger(dataset.root / "fib/counts/new.json", dataset.root / "fib/counts/old.json")
    assert dataset.files() == before
