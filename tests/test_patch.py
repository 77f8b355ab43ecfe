"""Installation: replacements go in wherever the original is held, and every original comes back, by identity."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy_engine
from toy_engine import Plus, Raising, adapter

from fib_plugin.adapter import Adapter, Target
from fib_plugin.patch import Installation, MissingError, locate

Import = Callable[[str], Any]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    yield from toy_engine.engine(tmp_path / "site", monkeypatch)


@pytest.fixture
def patches() -> Iterator[Callable[..., Installation]]:
    """Installations of adapter classes, taken out at the end."""
    made: list[Installation] = []

    def make(*kinds: type[Adapter]) -> Installation:
        runtime: Any = SimpleNamespace(tracing=True)
        made.append(Installation([kind(runtime) for kind in kinds]))
        return made[-1]

    yield make
    for installation in reversed(made):
        installation.uninstall()


def states(installation: Installation) -> list[str]:
    return [patch.state for patch in installation.patches]


def everything(*modules: Any) -> dict[str, Any]:
    """Every object that the modules and their classes hold, by where it is held."""
    held: dict[str, Any] = {}
    for module in modules:
        for name, value in vars(module).items():
            held[f"{module.__name__}.{name}"] = value
            if isinstance(value, type) and value.__module__.startswith("toy"):
                held.update({f"{module.__name__}.{name}.{key}": inner for key, inner in vars(value).items()})
    return {key: value for key, value in held.items() if not key.rpartition(".")[2].startswith("__")}


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    assert [key for key in before if before[key] is not after[key]] == []


METHODS = (
    "toy.wrapper:Wrapper.plan",
    "toy.wrapper:Wrapper.fixed",
    "toy.wrapper:Wrapper.made",
    "toy.wrapper:Wrapper.Inner.deep",
    "toy.wrapper:Base.run",
)


# ---- what is reached ------------------------------------------------------------------------------------------------


def test_a_function_is_replaced_in_every_module_that_imported_it(toy: Import, patches: Any) -> None:
    model = toy("model")
    patches(Plus).install()
    assert model.forward(1) == (1001, 1001, 1001)


def test_methods_are_replaced_in_their_kind(toy: Import, patches: Any) -> None:
    wrapper = toy("wrapper").Wrapper
    installation = patches(adapter(*METHODS))
    installation.install()
    assert states(installation) == ["patched"] * 5
    assert wrapper().plan(0) == 1002
    assert (wrapper.fixed(0), wrapper().fixed(0)) == (1003, 1003)
    assert (wrapper.made(0), wrapper().made(0)) == (1004, 1004)
    assert wrapper.Inner().deep(0) == 1005


def test_class_aliases_of_a_method_are_replaced_with_it(toy: Import, patches: Any) -> None:
    wrapper = toy("wrapper")
    patches(adapter("toy.wrapper:Wrapper.plan")).install()
    assert wrapper.Wrapper().begin_forward(0) == 1002
    assert wrapper.Heir().start(0) == 1002


def test_a_subclass_inherits_the_replacement_and_keeps_its_own_override(toy: Import, patches: Any) -> None:
    wrapper = toy("wrapper")
    patches(adapter("toy.wrapper:Wrapper.plan", "toy.wrapper:Base.run")).install()
    assert wrapper.Heir().run(0) == 1001
    assert wrapper.Overriding().plan(0) == 20


def test_a_replacement_looks_like_its_original(toy: Import, patches: Any) -> None:
    ops = toy("ops")
    patches(Plus).install()
    assert ops.plan.__name__ == "plan"
    assert ops.plan.__module__ == "toy.ops"


def test_installing_imports_nothing_of_the_engine(toy: Import, patches: Any) -> None:
    installation = patches(Plus)
    installation.install()
    assert "toy.ops" not in sys.modules
    assert states(installation) == ["waiting"]


def test_a_module_imported_after_install_is_patched_on_arrival(toy: Import, patches: Any) -> None:
    installation = patches(Plus)
    installation.install()
    assert toy("ops").plan(1) == 1001
    assert states(installation) == ["patched"]


# ---- what is put back -----------------------------------------------------------------------------------------------


def test_uninstall_restores_every_object_by_identity(toy: Import, patches: Any) -> None:
    modules = [toy("ops"), toy("model"), toy("wrapper"), toy("late")]
    before = everything(*modules)
    installation = patches(Plus, adapter(*METHODS, name="toy.methods"))
    installation.install()
    changed = [key for key, value in everything(*modules).items() if before[key] is not value]
    assert len(changed) >= 10
    installation.uninstall()
    assert_same(before, everything(*modules))


def test_uninstall_reaches_modules_that_took_the_replacement_by_name(toy: Import, patches: Any) -> None:
    ops, wrapper = toy("ops"), toy("wrapper")
    before = (ops.plan, wrapper.Wrapper.plan, wrapper.Wrapper.fixed)
    installation = patches(Plus, adapter(*METHODS, name="toy.methods"))
    installation.install()
    late = toy("late")
    assert (late.plan(1), late.Newcomer().start(0), late.fixed(0)) == (1001, 1002, 1003)
    installation.uninstall()
    assert late.plan is before[0]
    assert vars(late.Newcomer)["start"] is before[1]
    assert late.method is before[1]
    assert late.fixed is before[2]


def test_uninstall_restores_modules_that_arrived_after_install(toy: Import, patches: Any) -> None:
    installation = patches(Plus)
    installation.install()
    ops = toy("ops")
    replaced = ops.plan
    installation.uninstall()
    assert ops.plan is not replaced
    assert ops.plan(1) == 1


def test_a_module_that_arrives_after_uninstall_is_left_alone(toy: Import, patches: Any) -> None:
    installation = patches(Plus)
    installation.install()
    installation.uninstall()
    assert toy("ops").plan(1) == 1


def test_a_replacement_that_somebody_kept_runs_the_original_after_uninstall(toy: Import, patches: Any) -> None:
    installation = patches(Plus)
    installation.install()
    kept = toy("ops").plan
    installation.uninstall()
    assert kept(1) == 1


def test_a_later_patch_of_somebody_else_is_not_overwritten(toy: Import, patches: Any) -> None:
    installation = patches(Plus)
    ops = toy("ops")
    installation.install()
    ops.plan = theirs = lambda x: x
    installation.uninstall()
    assert ops.plan is theirs


def test_what_the_engine_removed_meanwhile_stays_removed(toy: Import, patches: Any) -> None:
    installation = patches(Plus)
    ops = toy("ops")
    installation.install()
    del ops.plan
    installation.uninstall()
    assert not hasattr(ops, "plan")


def test_install_is_idempotent(toy: Import, patches: Any) -> None:
    ops = toy("ops")
    installation = patches(Plus)
    installation.install()
    first = ops.plan
    installation.install()
    assert ops.plan is first
    assert ops.plan(1) == 1001


def test_uninstall_is_idempotent_and_safe_without_install(toy: Import, patches: Any) -> None:
    ops = toy("ops")
    original = ops.plan
    installation = patches(Plus)
    installation.uninstall()
    installation.install()
    installation.uninstall()
    installation.uninstall()
    assert ops.plan is original


def test_an_installation_can_go_in_again(toy: Import, patches: Any) -> None:
    ops = toy("ops")
    original = ops.plan
    installation = patches(Plus)
    for _ in range(3):
        installation.install()
        assert ops.plan(1) == 1001
        installation.uninstall()
        assert ops.plan is original


@pytest.mark.parametrize("order", list(permutations([0, 1, 2])))
def test_adapters_on_one_target_all_run_and_all_leave_in_any_order(
    toy: Import, patches: Any, order: tuple[int, ...]
) -> None:
    ops, model = toy("ops"), toy("model")
    before = everything(ops, model)
    kinds = [adapter("toy.ops:plan", name=f"toy.plus{n}", amount=n) for n in (10, 200, 3000)]
    installation = patches(*(kinds[at] for at in order))
    installation.install()
    assert model.forward(1) == (3211, 3211, 3211)
    installation.uninstall()
    assert_same(before, everything(ops, model))


# ---- what does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "state", "detail"),
    [
        (adapter("toy.ops:plan", params=("x", "factor")), "signature differs", "has (x, scale), written for (x, facto"),
        (adapter("toy.ops:plan", params=("x",)), "signature differs", "has (x, scale), written for (x)"),
        (adapter("toy.ops:nothing"), "missing", "toy.ops:nothing is not defined there"),
        (adapter("toy.ops:Nothing.plan"), "missing", "toy.ops:Nothing.plan is not defined there"),
        (adapter("toy.ops:plan", versions=">=2"), "version differs", "toy 1.2.0 is outside >=2"),
        (Raising, "failed", "cannot wrap"),
        (adapter("toy.ops:plan", wrap=lambda self, original: None), "failed", "no function of its own"),
        (adapter("toy.ops:plan", wrap=lambda self, original: original), "failed", "no function of its own"),
        (adapter("toy.ops:plan", wrap=lambda self, original: len), "failed", "not writable"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_a_target_that_does_not_fit_is_left_alone_and_says_why(
    toy: Import, patches: Any, kind: type[Adapter], state: str, detail: str
) -> None:
    ops, model = toy("ops"), toy("model")
    before = everything(ops, model)
    marks = dict(vars(ops.plan))
    installation = patches(kind)
    installation.install()
    assert states(installation) == [state]
    assert detail in installation.patches[0].describe()["detail"]
    assert_same(before, everything(ops, model))
    assert vars(ops.plan) == marks
    installation.uninstall()
    assert_same(before, everything(ops, model))


@pytest.mark.parametrize("kind", [adapter("toy.ops:nothing"), adapter("toy.ops:plan", params=()), Raising])
def test_a_target_that_does_not_fit_is_warned_about_once(
    toy: Import, patches: Any, log: Any, kind: type[Adapter]
) -> None:
    toy("ops")
    installation = patches(kind)
    installation.install()
    installation.install()
    assert len(log.warnings) == 1
    assert kind.targets[0].path in log.warnings[0]


def test_a_target_that_does_not_fit_later_is_warned_about_once(toy: Import, patches: Any, log: Any) -> None:
    patches(adapter("toy.ops:nothing")).install()
    assert log.warnings == []
    toy("ops")
    toy("model")
    assert len(log.warnings) == 1


def test_an_adapter_for_other_versions_is_warned_about_once(toy: Import, patches: Any, log: Any) -> None:
    patches(adapter("toy.ops:plan", "toy.ops:silu_and_mul", versions=">=2")).install()
    assert log.warnings == ["toy.plus: not installed: toy 1.2.0 is outside >=2"]


def test_an_adapter_may_name_other_targets_for_other_versions(toy: Import, patches: Any, log: Any) -> None:
    ops = toy("ops")
    both = (Target("toy.ops:plan", "wrap", ">=1,<2"), Target("toy.ops:renamed_plan", "wrap", ">=2"))
    installation = patches(adapter(targets=both))
    installation.install()
    assert states(installation) == ["patched", "for other versions"]
    assert ops.plan(1) == 1001
    assert log.warnings == []


def test_an_optional_target_may_be_missing_without_a_word(toy: Import, patches: Any, log: Any) -> None:
    toy("ops")
    installation = patches(adapter("toy.ops:nothing", optional=True))
    installation.install()
    assert states(installation) == ["missing"]
    assert log.warnings == []


def test_an_inherited_method_is_no_target_since_its_owner_is(toy: Import) -> None:
    with pytest.raises(MissingError, match=r"toy\.wrapper:Heir\.plan is not defined there"):
        locate(toy("wrapper"), "Heir.plan")


def test_one_bad_target_does_not_keep_the_others_out(toy: Import, patches: Any) -> None:
    ops = toy("ops")
    installation = patches(Raising, adapter("toy.ops:nothing", "toy.ops:plan"))
    installation.install()
    assert states(installation) == ["failed", "missing", "patched"]
    assert ops.plan(1) == 1001


@pytest.mark.parametrize("version", ["garbage", "1.2.0.cpu!", ""])
def test_a_version_that_cannot_be_read_is_no_reason_to_raise(
    toy: Import, tmp_path: Path, patches: Any, version: str
) -> None:
    toy_engine.write(tmp_path / "site", version)
    ops = toy("ops")
    original = ops.plan
    installation = patches(Plus)
    installation.install()
    assert states(installation)[0] in ("version differs", "absent")
    assert ops.plan is original


@pytest.mark.parametrize("version", ["1.2.0+cpu", "1.2.0rc1", "1.9.dev12+gabcdef"])
def test_builds_of_a_supported_version_are_supported(toy: Import, tmp_path: Path, patches: Any, version: str) -> None:
    toy_engine.write(tmp_path / "site", version)
    installation = patches(Plus)
    installation.install()
    assert states(installation) == ["waiting"]


def test_an_engine_that_is_not_installed_is_absent(patches: Any) -> None:
    installation = patches(Plus)
    installation.install()
    assert states(installation) == ["absent"]


def test_with_no_adapter_the_functions_are_the_engines_own(toy: Import, patches: Any) -> None:
    modules = [toy("ops"), toy("model"), toy("wrapper")]
    before = everything(*modules)
    patches().install()
    assert_same(before, everything(*modules))


def test_importing_the_package_arranges_no_hook() -> None:
    program = "import sys; before = list(sys.meta_path); import fib_plugin.patch; assert sys.meta_path == before"
    subprocess.run([sys.executable, "-c", program], check=True)
