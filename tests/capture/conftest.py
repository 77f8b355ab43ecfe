"""Fixtures of the capture tests: a dataset folder and writers that are closed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fib_plugin.capture.writer import Writer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def make_writer(root: Path) -> Iterator[Callable[..., Writer]]:
    made: list[Writer] = []

    def make(**options: Any) -> Writer:
        made.append(Writer(root, **options))
        return made[-1]

    yield make
    for writer in made:
        writer.close()
