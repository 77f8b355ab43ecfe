"""A runtime with proven solutions, for tests of live calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import proven
import pytest
from live_calls import ROWS, Make

from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition


@pytest.fixture
def proven_runtime(make_runtime: Make, dataset: Path) -> Callable[..., Runtime]:
    """A runtime in which a marked solution is proven at ROWS for each definition."""

    def make(*definitions: Definition, **options: Any) -> Runtime:
        for definition in definitions:
            made = proven.solution(definition, f"fast__{definition.name}")
            proven.prove(dataset, definition, made, sizes=(ROWS,))
        return make_runtime(**options)

    return make
