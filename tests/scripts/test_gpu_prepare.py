"""scripts/gpu_prepare.py: what is compiled before an engine starts, which does not wait for a compiler."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from proven import silu, solution, store

from fib_plugin import build
from fib_plugin.build import BuildError
from fib_plugin.dispatch import trust
from fib_plugin.schema import BuildSpec, Language, Solution

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module("gpu_prepare")
    finally:
        sys.path.remove(str(SCRIPTS))


def native(name: str, language: Language = Language.CPP) -> Solution:
    made = solution(silu(), name, f"\n// {name}\n")
    spec = BuildSpec(**{**made.spec.model_dump(), "language": language, "entry_point": "main.cpp::run"})
    sources = [one.model_copy(update={"path": "main.cpp"}) for one in made.sources]
    return made.model_copy(update={"spec": spec, "sources": sources})


def test_what_is_trusted_and_native_is_compiled_into_the_engines_cache(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any, bool]] = []

    def precompile(one: Solution, cache: Path | None, retry: bool) -> None:
        asked.append((one.name, cache, retry))
        if one.name == "bad":
            raise BuildError("no such file")

    monkeypatch.setattr(build, "precompile", precompile)
    good, bad, stranger, python = native("good"), native("bad"), native("stranger"), solution(silu(), "python")
    for one in (good, bad, stranger, python):
        store(tmp_path / "dataset", silu(), one)
    trust.add(tmp_path / "fib.lock", {one.name: one for one in (good, bad, python)}, {})
    told = script.compile_trusted(tmp_path / "dataset", tmp_path / "fib.lock", tmp_path / "cache")
    assert sorted(asked) == [("bad", tmp_path / "cache", True), ("good", tmp_path / "cache", True)]
    assert told["compiled"] == 2
    assert list(told["problems"]) == ["bad"]
    assert "no such file" in told["problems"]["bad"]
