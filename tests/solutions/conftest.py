"""One dataset with every case's definition and every shipped kernel packed into it, and one build cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import solution_cases

from fib_plugin.dataset import TraceSet
from fib_plugin.pack import pack


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed") / "dataset"
    solution_cases.fill(root)
    pack(root)
    return root


@pytest.fixture(scope="session")
def traces(root: Path) -> TraceSet:
    return TraceSet.from_path(root)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")
