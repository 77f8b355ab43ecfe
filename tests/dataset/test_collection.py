"""The collector is held off while a dataset loads, and never longer."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from sample_dataset import TRACES, Dataset

from fib_plugin.dataset import TraceSet
from fib_plugin.dataset.collection import no_collection


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_the_collector_is_off_within_and_on_again_after() -> None:
    with no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_is_on_again_after_an_error() -> None:
    with pytest.raises(KeyError), no_collection():
        raise KeyError
    assert gc.isenabled()


def test_one_that_was_off_stays_off() -> None:
    gc.disable()
    with no_collection(), no_collection():
        pass
    assert not gc.isenabled()


def test_a_decorated_function_may_be_called_again() -> None:
    enabled = no_collection()(gc.isenabled)
    assert [enabled(), gc.isenabled(), enabled(), gc.isenabled()] == [False, True, False, True]


def test_a_dataset_loads_without_collections(dataset: Dataset) -> None:
    dataset.definition()
    dataset.solution()
    dataset.lines(TRACES, *(dataset.trace() for _ in range(3000)))
    before = [generation["collections"] for generation in gc.get_stats()]
    traces = TraceSet.from_path(dataset.root)
    assert sum(map(len, traces.traces.values())) == 3000
    assert [generation["collections"] for generation in gc.get_stats()][1:] == before[1:]
    assert gc.isenabled()
