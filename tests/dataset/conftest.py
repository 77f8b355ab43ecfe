"""Fixtures of the dataset tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sample_dataset import Dataset


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Dataset]:
    """Makes empty datasets by name."""
    return lambda name: Dataset(tmp_path / name)


@pytest.fixture
def dataset(make: Callable[[str], Dataset]) -> Dataset:
    """A dataset with its definition."""
    made = make("dataset")
    made.definition()
    return made
