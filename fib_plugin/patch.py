"""Puts replacements into an engine and takes them out again, by identity. Used by plugin.py alone.

A module that is not imported yet is patched when the engine imports it, so that installing costs no engine import.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import wrapt

from fib_plugin.adapter import DIFFERS, OTHER, Adapter, Hook, Target, signature_differs, supports

logger = logging.getLogger("fib_plugin")

_MISSING = object()


class MissingError(AttributeError):
    """The engine has no such function at the place that a target names."""


@dataclass(slots=True)
class Patch:
    """One target of one adapter: its state and every place that was changed."""

    adapter: Adapter
    target: Target
    state: str = "waiting"
    detail: str = ""
    places: list[tuple[Any, str, Any, Any]] = field(default_factory=list)
    #: What the engine's own registry was given.
    hook: Hook | None = None

    def describe(self) -> dict[str, str]:
        return {
            "adapter": self.adapter.name,
            "target": self.target.path,
            "state": self.state,
            "detail": self.detail,
        }


class Installation:
    """The patches of a set of adapters. ``install`` and ``uninstall`` are idempotent and exact inverses."""

    def __init__(self, adapters: list[Adapter]) -> None:
        self.adapters = adapters
        self.patches = [Patch(adapter, target) for adapter in adapters for target in adapter.targets]
        self.active = False

    def install(self) -> None:
        """Patches what is imported and arranges for the rest. Never raises for a target that does not fit."""
        if self.active:
            return
        self.active = True
        for patch in self.patches:
            patch.adapter.live = True
            problem = supports(patch.adapter.engine, patch.target)
            if problem is not None:
                patch.state, patch.detail = ("absent" if "not installed" in problem else DIFFERS), problem
                continue
            patch.state = "waiting"
            wrapt.register_post_import_hook(functools.partial(self._arrived, patch), patch.target.module)
        for adapter in self.adapters:
            # An adapter may name other targets for other versions: it is out only when none of them fits.
            mine = [patch for patch in self.patches if patch.adapter is adapter]
            others = [patch for patch in mine if patch.state == DIFFERS]
            if others and len(others) == len(mine):
                logger.warning("%s: not installed: %s", adapter.name, mine[0].detail)
                continue
            for patch in others:
                patch.state = OTHER

    def _arrived(self, patch: Patch, module: ModuleType) -> None:
        if not self.active or patch.state != "waiting":
            return
        try:
            self._apply(patch, module)
        except MissingError as error:
            patch.state, patch.detail = "missing", str(error)
        except Exception as error:
            _restore(patch)
            patch.state, patch.detail = "failed", repr(error)
        if patch.state != "patched" and not patch.target.optional:
            logger.warning(
                "%s: %s is not patched (%s: %s)", patch.adapter.name, patch.target.path, patch.state, patch.detail
            )

    def _apply(self, patch: Patch, module: ModuleType) -> None:
        holder, name, raw = locate(module, patch.target.attribute)
        function = raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw
        difference = signature_differs(patch.target, function)
        if difference is not None:
            patch.state, patch.detail = "signature differs", difference
            return
        made = patch.adapter.replacement(patch.target, function)
        found = list(aliases(holder, name, raw))
        new = self._registered(patch, holder, name, function, made)
        patch.detail = "" if new is None else "by the engine's registry"
        if new is None:
            functools.update_wrapper(made, function)
            new = type(raw)(made) if isinstance(raw, (staticmethod, classmethod)) else made
        for place, alias, value in found:
            patch.places.append((place, alias, value, new))
            setattr(place, alias, new)
        patch.state = "patched"

    def _registered(
        self, patch: Patch, holder: Any, name: str, function: Callable[..., Any], made: Callable[..., Any]
    ) -> Any:
        """What the engine's registry put in the place of ``function``; None: it has none, or it did not do it."""
        registry = patch.adapter.engine.registry
        if registry is None:
            return None
        other: dict[Callable[..., Any], Callable[..., Any]] = {}

        def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if original is function:
                return made(*args, **kwargs)
            if original not in other:  # another plugin of the engine replaced the function
                other[original] = patch.adapter.replacement(patch.target, original)
            return other[original](*args, **kwargs)

        patch.hook = around
        new = registry.place(patch.target.path, around)
        if new is not None and vars(holder).get(name, _MISSING) is new:
            return new
        registry.withdraw(patch.target.path, around)
        patch.hook = None
        return None

    def uninstall(self) -> None:
        """Puts every original back, also where another module had imported the replacement by name."""
        if not self.active:
            return
        self.active = False
        for patch in reversed(self.patches):
            patch.adapter.live = False
            _restore(patch)
            patch.state = "waiting"


def _restore(patch: Patch) -> None:
    registry = patch.adapter.engine.registry
    if registry is not None and patch.hook is not None:
        registry.withdraw(patch.target.path, patch.hook)
        patch.hook = None
    for place, name, value, new in reversed(patch.places):
        if vars(place).get(name, _MISSING) is new:
            setattr(place, name, value)
        for holder, alias in _late(place, new):
            setattr(holder, alias, value)
        if isinstance(new, (staticmethod, classmethod)):
            for module, alias in _bindings(new.__func__):
                setattr(module, alias, value.__func__)
    patch.places.clear()


def locate(module: ModuleType, attribute: str) -> tuple[Any, str, Any]:
    """(holder, name, raw value) of ``Class.method`` or ``function``; the raw value keeps staticmethod and the like.

    Raises:
        MissingError: no such attribute, or an inherited one: its owner is what must be named.
    """
    *path, name = attribute.split(".")
    holder: Any = module
    for part in path:
        holder = getattr(holder, part, _MISSING)
    raw = _MISSING if holder is _MISSING else vars(holder).get(name, _MISSING)
    if raw is _MISSING:
        raise MissingError(f"{module.__name__}:{attribute} is not defined there")
    return holder, name, raw


def aliases(holder: Any, name: str, raw: Any) -> Iterator[tuple[Any, str, Any]]:
    """Every place that holds the very object: the owner, class aliases, and modules that imported it by name."""
    yield holder, name, raw
    if isinstance(holder, type):
        for cls in _subclasses(holder):
            for alias, value in list(vars(cls).items()):
                if value is raw and (cls, alias) != (holder, name):
                    yield cls, alias, value
    else:
        for module, alias in _bindings(raw):
            if (module, alias) != (holder, name):
                yield module, alias, raw


def _late(holder: Any, new: Any) -> Iterator[tuple[Any, str]]:
    """Places that took the replacement itself after it was installed: modules by import, subclasses by assignment."""
    yield from _bindings(new)
    if isinstance(holder, type):
        for cls in _subclasses(holder):
            yield from ((cls, alias) for alias, value in list(vars(cls).items()) if value is new)


def _subclasses(cls: type) -> Iterator[type]:
    yield cls
    subclasses: list[type] = type.__subclasses__(cls)
    for sub in subclasses:
        yield from _subclasses(sub)


def _bindings(value: Any) -> list[tuple[ModuleType, str]]:
    found = []
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            found += [(module, alias) for alias, held in list(vars(module).items()) if held is value]
    return found
