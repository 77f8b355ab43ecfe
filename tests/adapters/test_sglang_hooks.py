"""Hooks through SGLang's own registry: placed by it, verified, and gone without a trace after an uninstall."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import pytest
from fib_plugin.adapters.sglang.hooks import Hooks

from fib_plugin.adapter import Adapter, Engine, Target
from fib_plugin.patch import Installation

REGISTRY = "sglang.srt.plugins.hook_registry"


class HookType(Enum):
    AROUND = "around"


def registry(places: bool = True) -> Any:
    """A module that looks like SGLang's as far as the plugin uses it."""

    class HookRegistry:
        _hooks: dict[str, list[Any]] = {}  # noqa: RUF012
        _patched: set[str] = set()  # noqa: RUF012

        @classmethod
        def register(cls, target: str, hook: Callable[..., Any], kind: HookType) -> None:
            cls._hooks.setdefault(target, []).append((kind, hook, None))

        @classmethod
        def apply_hooks(cls) -> None:
            for target, hooks in cls._hooks.items():
                if target in cls._patched or not places:
                    continue
                module, owner, name = target.rsplit(".", 2)
                holder = getattr(sys.modules[module], owner)
                for _, hook, _ in hooks:
                    setattr(holder, name, wrapped(vars(holder)[name], hook))
                cls._patched.add(target)

    def wrapped(original: Callable[..., Any], hook: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return hook(original, *args, **kwargs)

        return wrapper

    module: Any = types.ModuleType(REGISTRY)
    module.HookRegistry, module.HookType = HookRegistry, HookType
    return module


class Layer:
    def apply(self, x: int) -> int:
        return x + 1

    again = apply


class Tenfold(Adapter):
    name = "hooked.layer"
    engine = Engine("hooked", ("pytest",), Hooks())
    targets = (Target("hooked_engine:Layer.apply", "make", params=("self", "x")),)

    def make(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda layer, x: 10 * original(layer, x) if self.live else original(layer, x)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = types.ModuleType("hooked_engine")
    module.Layer = type("Layer", (), dict(vars(Layer)))
    monkeypatch.setitem(sys.modules, "hooked_engine", module)
    return module


@pytest.fixture
def installation() -> Iterator[Installation]:
    made = Installation([Tenfold(runtime=None)])  # type: ignore[arg-type]
    yield made
    made.uninstall()


def state(installation: Installation) -> dict[str, str]:
    return installation.patches[0].describe()


def test_the_registry_places_the_hook_and_aliases_of_the_class_follow(
    engine: Any, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = registry()
    monkeypatch.setitem(sys.modules, REGISTRY, hooks)
    installation.install()
    assert (state(installation)["state"], state(installation)["detail"]) == ("patched", "by the engine's registry")
    assert (engine.Layer().apply(1), engine.Layer().again(1)) == (20, 20)
    assert list(hooks.HookRegistry._hooks) == ["hooked_engine.Layer.apply"]


def test_uninstalling_restores_the_object_and_leaves_nothing_in_the_registry(
    engine: Any, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks, own = registry(), vars(engine.Layer)["apply"]
    monkeypatch.setitem(sys.modules, REGISTRY, hooks)
    for _ in range(2):
        installation.install()
        assert engine.Layer().apply(1) == 20
        installation.uninstall()
        assert vars(engine.Layer)["apply"] is own
        assert vars(engine.Layer)["again"] is own
        assert hooks.HookRegistry._hooks == {}
        assert hooks.HookRegistry._patched == set()


def test_hooks_of_other_plugins_stay(engine: Any, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = registry()
    monkeypatch.setitem(sys.modules, REGISTRY, hooks)
    other = (HookType.AROUND, lambda original, *args: original(*args), None)
    hooks.HookRegistry._hooks["hooked_engine.Layer.apply"] = [other]
    installation.install()
    installation.uninstall()
    assert hooks.HookRegistry._hooks == {"hooked_engine.Layer.apply": [other]}


def test_a_hook_that_the_registry_did_not_place_is_put_there_directly(
    engine: Any, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = registry(places=False)
    monkeypatch.setitem(sys.modules, REGISTRY, hooks)
    installation.install()
    assert (state(installation)["state"], state(installation)["detail"]) == ("patched", "")
    assert engine.Layer().apply(1) == 20
    assert hooks.HookRegistry._hooks == {}


def test_an_engine_without_a_registry_is_patched_directly(engine: Any, installation: Installation) -> None:
    assert REGISTRY not in sys.modules
    installation.install()
    assert state(installation)["state"] == "patched"
    assert engine.Layer().apply(1) == 20


def test_what_another_plugin_put_in_the_place_of_the_function_is_wrapped(
    engine: Any, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = registry()
    monkeypatch.setitem(sys.modules, REGISTRY, hooks)
    replaced = (HookType.AROUND, lambda original, layer, x: 100, None)
    hooks.HookRegistry._hooks["hooked_engine.Layer.apply"] = [replaced]
    installation.install()
    assert engine.Layer().apply(1) == 1000
