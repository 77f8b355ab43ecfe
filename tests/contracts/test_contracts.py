"""Every adapter's targets, held against what each engine version really has: tests/contracts/ENGINE-VERSION.json.

scripts/snapshot_engine.py writes the snapshots. A failure names adapter, target, version and difference.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fib_plugin.adapter import Adapter, Target, discover, outside, parameters_differ


@dataclass(frozen=True)
class Snapshot:
    engine: str
    version: str
    targets: dict[str, list[str]]

    def __str__(self) -> str:
        return f"{self.engine}-{self.version}"

    def differs(self, target: Target) -> str | None:
        """What is wrong with ``target`` in this version; None when it is there as declared."""
        found = self.targets.get(target.path)
        if found is None:
            return f"is not in the snapshot: run scripts/snapshot_engine.py {self.engine} {self.version}"
        if not found:
            return None if target.optional else "is not there"
        differences = [parameters_differ(target, parameters(signature)) for signature in found]
        return None if None in differences else differences[0]


def parameters(signature: str) -> tuple[str, ...]:
    """The names, as ``inspect.signature`` lists them."""
    if signature == "(...)":
        return ("...",)
    function = ast.parse(f"def f{signature}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    a = function.args
    every = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
    return tuple(argument.arg for argument in every if argument is not None)


def snapshots() -> list[Snapshot]:
    return [Snapshot(**json.loads(file.read_text())) for file in sorted(Path(__file__).parent.glob("*.json"))]


SNAPSHOTS = snapshots()
ADAPTERS = {adapter.name: adapter for adapter in discover()}


def declared(adapter: type[Adapter], snapshot: Snapshot) -> Iterator[Target]:
    """The targets of ``adapter`` that were written for the snapshot's version."""
    for target in adapter.targets:
        if adapter.engine.owns(target) and outside(adapter.engine, target, snapshot.version) is None:
            yield target


def pairs() -> list[object]:
    return [
        pytest.param(adapter, snapshot, id=f"{adapter.name} {snapshot.version}")
        for snapshot in SNAPSHOTS
        for adapter in ADAPTERS.values()
        if adapter.engine.name == snapshot.engine and any(map(adapter.engine.owns, adapter.targets))
    ]


@pytest.mark.parametrize(("adapter", "snapshot"), pairs())
def test_every_target_is_there_as_declared(adapter: type[Adapter], snapshot: Snapshot) -> None:
    problems = [
        f"{adapter.name}: {target.path} {problem}, in {snapshot.engine} {snapshot.version}"
        for target in declared(adapter, snapshot)
        if (problem := snapshot.differs(target)) is not None
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_no_target_is_declared_for_versions_that_all_lack_it(name: str) -> None:
    adapter = ADAPTERS[name]
    for target in filter(adapter.engine.owns, adapter.targets):
        fitting = [s for s in SNAPSHOTS if s.engine == adapter.engine.name and target in declared(adapter, s)]
        found = [str(s) for s in fitting if s.targets.get(target.path)]
        assert found or not fitting, (
            f"{name}: {target.path} ({target.versions}) is in none of {', '.join(map(str, fitting))}"
        )


def test_the_versions_of_vllm_at_which_interfaces_moved_are_covered() -> None:
    versions = {s.version for s in SNAPSHOTS if s.engine == "vllm"}
    assert versions >= {"0.22.1", "0.24.0", "0.26.0", "0.28.0", "0.30.0", "0.32.0", "0.33.0"}


def made(found: str, **of: object) -> str | None:
    target = Target("engine.ops:f", "make", **{"params": ("self", "x"), **of})  # type: ignore[arg-type]
    return Snapshot("engine", "1.0", {"engine.ops:f": [found] if found else []}).differs(target)


def test_a_difference_says_what_is_there_and_what_was_expected() -> None:
    assert made("(self, x, residual=None)") == "has (self, x, residual), written for (self, x)"
    assert made("(...)") == "has (...), written for (self, x)"
    assert made("(self, x)") is None
    assert made("(self, *, x=1)") is None
    assert made("(anything)", params=None) is None


def test_an_absent_target_is_a_failure_unless_it_is_optional() -> None:
    assert made("") == "is not there"
    assert made("", optional=True) is None


def test_a_snapshot_older_than_a_target_asks_to_be_written_again() -> None:
    problem = Snapshot("engine", "1.0", {}).differs(Target("engine.ops:f", "make"))
    assert problem is not None
    assert "snapshot_engine.py engine 1.0" in problem
