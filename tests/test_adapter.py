"""Adapter: a declaration that would fail later is rejected when it is read, with a message that says what to change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import toy_engine
from toy_engine import TOY, Plus, adapter

from fib_plugin.adapter import (
    Adapter,
    AdapterError,
    Engine,
    Target,
    check,
    discover,
    signature_differs,
    supports,
)

# ---- check ----------------------------------------------------------------------------------------------------------


def test_a_sound_declaration_passes() -> None:
    check(Plus)
    check(adapter("toy.ops:plan", families=("gemm", "rmsnorm"), params=("x",), optional=True))


class Nameless(Adapter):
    engine = TOY


class Engineless(Adapter):
    name = "toy.engineless"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Nameless, r"Nameless: name must be 'toy\.<op>'"),
        (Engineless, r"Engineless: engine must be an Engine"),
        (adapter(engine="toy"), r"engine must be an Engine\(name, distributions\)"),
        (adapter(name="plus"), r"name must be 'toy\.<op>'"),
        (adapter(name="vllm.plus"), r"name must be 'toy\.<op>'"),
        (adapter(families=("gem",)), r"adapter toy\.plus: unknown family 'gem'; known: gemm, rmsnorm"),
        (adapter("toy.ops"), r"adapter toy\.plus: target 'toy\.ops' must read module:attribute"),
        (adapter("toy.ops:plan", make="wrapp"), r"adapter toy\.plus: target toy\.ops:plan names no method 'wrapp'"),
        (adapter("toy.ops:plan", make="name"), r"adapter toy\.plus: target toy\.ops:plan names no method 'name'"),
        (adapter("toy.ops:plan", versions=">>1"), r"target toy\.ops:plan: versions: .*>>1"),
        (adapter("toy.ops:plan", versions="1.2"), r"target toy\.ops:plan: versions: .*1\.2"),
        (SimpleNamespace(name="toy.plus"), r"is not a subclass of fib_plugin\.adapter\.Adapter"),
        (object, r"is not a subclass of fib_plugin\.adapter\.Adapter"),
    ],
)
def test_a_declaration_that_would_fail_later_is_rejected(bad: Any, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        check(bad)


def test_a_make_method_that_vanished_is_told_by_name() -> None:
    made = adapter("toy.ops:plan", make="gone")(SimpleNamespace())
    with pytest.raises(AdapterError, match="names the method 'gone'; add it"):
        made.replacement(made.targets[0], len)


# ---- versions and signatures ----------------------------------------------------------------------------------------


def with_version(version: str | None) -> Any:
    return SimpleNamespace(name="toy", version=lambda: version)


@pytest.mark.parametrize(
    ("version", "versions", "problem"),
    [
        ("1.5", ">=1,<2", None),
        ("1.5+cpu.2", ">=1,<2", None),
        ("2.0", ">=1,<2", "toy 2.0 is outside >=1,<2"),
        ("2.0rc1", ">=1,<2", None),
        ("anything", "", None),
        ("anything", ">=1", "toy anything is no version that can be compared with >=1"),
        (None, ">=1", "toy is not installed"),
    ],
)
def test_versions_are_compared_with_what_the_target_was_written_for(
    version: str | None, versions: str, problem: str | None
) -> None:
    if version == "2.0rc1":
        # PEP 440: a pre-release of the excluded bound is excluded with it.
        problem = "toy 2.0rc1 is outside >=1,<2"
    assert supports(with_version(version), Target("toy.ops:plan", "wrap", versions)) == problem


def test_an_engine_is_found_under_any_of_its_distributions() -> None:
    assert Engine("pytest", ("no-such-distribution", "pytest")).version() == pytest.__version__
    assert Engine("none", ("no-such-distribution",)).version() is None


def function(self, x, residual=None):  # type: ignore[no-untyped-def]
    """A signature to compare with."""


@pytest.mark.parametrize(
    ("params", "difference"),
    [
        (None, None),
        (("self", "x", "residual"), None),
        (("self", "x"), "has (self, x, residual), written for (self, x)"),
        (("x", "self", "residual"), "has (self, x, residual), written for (x, self, residual)"),
        (("self", "x", "res"), "has (self, x, residual), written for (self, x, res)"),
        ((), "has (self, x, residual), written for ()"),
    ],
)
def test_parameters_must_be_the_ones_the_adapter_was_written_for(params: Any, difference: str | None) -> None:
    assert signature_differs(Target("toy.ops:plan", "wrap", params=params), function) == difference


def test_a_function_without_a_readable_signature_does_not_match() -> None:
    problem = signature_differs(Target("toy.ops:plan", "wrap", params=("x",)), type)
    assert problem is not None


# ---- discover -------------------------------------------------------------------------------------------------------


def fails(error: BaseException) -> Any:
    def load() -> Any:
        raise error

    return load


def test_adapters_of_all_groups_are_found(adapters: Any) -> None:
    other = adapter(name="toy.other")
    adapters((Plus,), (other,))
    assert discover() == [Plus, other]


@pytest.mark.parametrize("error", [ImportError("no toy"), RuntimeError("boom"), SystemExit(3), SyntaxError("bad")])
def test_a_group_that_cannot_be_loaded_is_left_out_with_one_line(adapters: Any, log: Any, error: BaseException) -> None:
    adapters(fails(error), (Plus,))
    assert discover() == [Plus]
    assert len(log.warnings) == 1
    assert "'group0'" in log.warnings[0]
    assert type(error).__name__ in log.warnings[0]


def test_a_group_that_is_no_list_is_left_out(adapters: Any, log: Any) -> None:
    adapters(7, (Plus,))
    assert discover() == [Plus]
    assert len(log.warnings) == 1


def test_a_broken_adapter_does_not_take_its_neighbours_with_it(adapters: Any, log: Any) -> None:
    adapters((Nameless, Plus, "not a class"))
    assert discover() == [Plus]
    assert len(log.warnings) == 2


def test_of_two_adapters_of_one_name_the_first_is_kept(adapters: Any, log: Any) -> None:
    adapters((Plus,), (adapter("toy.ops:plan"),))
    assert discover() == [Plus]
    assert len(log.warnings) == 1
    assert "toy.plus" in log.warnings[0]


def test_the_same_adapter_listed_twice_is_found_once(adapters: Any, log: Any) -> None:
    adapters((Plus, Plus), (Plus,))
    assert discover() == [Plus]
    assert log.warnings == []


def test_the_shipped_adapters_are_all_sound() -> None:
    from fib_plugin.adapters.vllm import ADAPTERS

    for kind in ADAPTERS:
        check(kind)
    assert len({kind.name for kind in ADAPTERS}) == len(ADAPTERS)


def test_the_toy_engine_is_no_installed_distribution() -> None:
    """What the tests above rely on: an engine that is absent unless a test installs it."""
    assert toy_engine.TOY.version() is None
