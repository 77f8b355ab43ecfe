"""The demo's requests: real lengths that fit the tiny model, the same at every run."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

DEMO = Path(__file__).parents[2] / "scripts" / "demo"


@pytest.fixture(scope="module")
def traffic() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_traffic", DEMO / "traffic.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_excerpt_is_two_hundred_requests_in_the_order_of_arrival(traffic: ModuleType) -> None:
    with traffic.EXCERPT.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 200
    assert set(rows[0]) == {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}
    assert [row["TIMESTAMP"] for row in rows] == sorted(row["TIMESTAMP"] for row in rows)


def test_the_excerpt_names_its_source_and_licence(traffic: ModuleType) -> None:
    told = (traffic.EXCERPT.parent / "README.md").read_text()
    assert "CC-BY 4.0" in told
    assert "Splitwise" in told


def test_requests_are_the_same_at_every_call(traffic: ModuleType) -> None:
    assert traffic.requests(48) == traffic.requests(48)


def test_every_sampling_gets_requests_and_none_is_lost(traffic: ModuleType) -> None:
    groups = traffic.requests(48)
    assert set(groups) == set(traffic.SAMPLINGS)
    assert all(groups.values())
    assert sum(map(len, groups.values())) == 48


def test_requests_fit_the_model(traffic: ModuleType) -> None:
    for group in traffic.requests(200).values():
        for request in group:
            assert 1 <= len(request.prompt) <= traffic.LONGEST_PROMPT
            assert 1 <= request.max_tokens <= traffic.LONGEST_OUTPUT
            assert all(0 <= token < traffic.VOCABULARY for token in request.prompt)


def test_requests_differ_in_length_as_real_ones_do(traffic: ModuleType) -> None:
    lengths = {len(request.prompt) for group in traffic.requests(48).values() for request in group}
    assert len(lengths) > 10
