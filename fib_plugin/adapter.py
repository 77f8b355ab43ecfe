"""What an adapter is: which functions of an engine it replaces, checked against the installed version.

Targets are data: install, uninstall, ``fib doctor`` and the README's table of hooks all read the same declaration.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from fib_plugin import ops
from fib_plugin.dispatch.reason import Reason

if TYPE_CHECKING:
    from fib_plugin.runtime import Runtime
    from fib_plugin.schema import Definition

logger = logging.getLogger("fib_plugin")

#: States of a target that is for other versions: its adapter has none for the installed one, or it has.
DIFFERS, OTHER = "version differs", "for other versions"


class AdapterError(ValueError):
    """An adapter is declared wrongly; the message names adapter, target and what is wrong."""


@dataclass(frozen=True, slots=True)
class Target:
    """One function of an engine that an adapter replaces.

    Args:
        path: ``module:attribute.path`` of the function.
        make: name of the adapter's method that takes the original and returns the replacement.
        versions: versions of the engine that have it, as a requirement specifier (``>=0.22,<0.34``).
        params: parameter names the original must have, in order; None when any will do.
        optional: True when some supported versions lack it and the adapter does without.
    """

    path: str
    make: str
    versions: str = ""
    params: tuple[str, ...] | None = None
    optional: bool = False

    @property
    def module(self) -> str:
        return self.path.partition(":")[0]

    @property
    def attribute(self) -> str:
        return self.path.partition(":")[2]


#: An engine's hook around a function: gets that function, then its arguments.
Hook = Callable[..., Any]


class Registry(Protocol):
    """An engine's own way of putting hooks around its functions, so that they get on with those of other plugins."""

    def place(self, path: str, hook: Hook) -> Any:
        """What stands at ``path`` (a target's) now that ``hook`` is around it; None when the engine did not do it."""

    def withdraw(self, path: str, hook: Hook) -> None:
        """Forgets a hook; putting the original back is the caller's affair."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A serving engine or kernel library: its name and the distributions that carry it.

    Args:
        registry: the engine's own hooks; None: targets are replaced directly.
    """

    name: str
    distributions: tuple[str, ...]
    registry: Registry | None = None

    def version(self) -> str | None:
        """The installed version without importing the engine, or None."""
        for distribution in self.distributions:
            try:
                return importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
        return None

    def owns(self, target: Target) -> bool:
        """Whether the target lies in the engine's own package, whose version decides what it looks like."""
        return target.module.partition(".")[0] == self.name


class Adapter:
    """Replaces functions of one engine for one op. Subclasses say what (``targets``) and how (the make methods).

    A replacement must run the original whenever ``self.live`` is False: objects of the engine may hold it for longer
    than the installation lasts.
    """

    name: ClassVar[str]
    engine: ClassVar[Engine]
    families: ClassVar[tuple[str, ...]] = ()
    targets: ClassVar[tuple[Target, ...]] = ()
    #: True for what other adapters of the engine rely on: FIB_ADAPTERS does not choose it.
    support: ClassVar[bool] = False

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.live = True

    def wanted(self) -> bool:
        """Whether there is anything to do: calls to record, or a family with a proven solution."""
        return self.runtime.tracing or any(self.runtime.candidates(family) for family in self.families)

    def displaced(self, definition: Definition) -> str | None:
        """Python source (a value-returning ``run``) that calls the engine's own op on a definition's inputs."""
        return None

    def graph_facts(self) -> str:
        """What of this adapter changes a traced graph; part of the key of compiled artifacts."""
        return ""

    def decline(self, reason: Reason = Reason.UNSUPPORTED_ARGUMENT) -> None:
        """Counts a live call that goes to the original because the definition cannot express it."""
        self.runtime.decline(self.name, reason)

    def replacement(self, target: Target, original: Callable[..., Any]) -> Callable[..., Any]:
        """The function to put in the place of ``original``."""
        make = getattr(self, target.make, None)
        if make is None:
            raise AdapterError(f"adapter {self.name}: target {target.path} names the method {target.make!r}; add it")
        result: Callable[..., Any] = make(original)
        if not callable(result) or result is original:
            raise AdapterError(f"adapter {self.name}: {target.make} returns no function of its own for {target.path}")
        return result


def supports(engine: Engine, target: Target) -> str | None:
    """None when the installed engine's version is one that ``target`` was written for, else what is wrong."""
    version = engine.version()
    return f"{engine.name} is not installed" if version is None else outside(engine, target, version)


def outside(engine: Engine, target: Target, version: str) -> str | None:
    """None when ``target`` was written for that version of the engine, else what is wrong."""
    if not target.versions:
        return None
    try:
        base = Version(version.split("+")[0])
    except InvalidVersion:
        return f"{engine.name} {version} is no version that can be compared with {target.versions}"
    if SpecifierSet(target.versions).contains(base, prereleases=True):
        return None
    return f"{engine.name} {version} is outside {target.versions}"


def signature_differs(target: Target, original: Callable[..., Any]) -> str | None:
    """None when ``original`` has the parameters that the adapter was written for, else the difference."""
    if target.params is None:
        return None
    try:
        names = tuple(inspect.signature(original).parameters)
    except (TypeError, ValueError) as error:
        return f"signature cannot be read: {error}"
    return parameters_differ(target, names)


def parameters_differ(target: Target, names: tuple[str, ...]) -> str | None:
    """None when a function with these parameters is what the adapter was written for, else the difference."""
    if target.params is not None and names != target.params:
        return f"has ({', '.join(names)}), written for ({', '.join(target.params)})"
    return None


def check(adapter: type[Adapter]) -> None:
    """Rejects an adapter that would fail later.

    Raises:
        AdapterError: no adapter class, a missing engine or name, an unknown family, a target without attribute,
            method or readable versions.
    """
    if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
        raise AdapterError(f"{adapter!r} is not a subclass of fib_plugin.adapter.Adapter")
    if not isinstance(getattr(adapter, "engine", None), Engine):
        raise AdapterError(f"{adapter.__qualname__}: engine must be an Engine(name, distributions)")
    if not getattr(adapter, "name", "").startswith(adapter.engine.name + "."):
        raise AdapterError(f"{adapter.__qualname__}: name must be '{adapter.engine.name}.<op>'")
    for family in adapter.families:
        if family not in ops.ALL:
            raise AdapterError(f"adapter {adapter.name}: unknown family {family!r}; known: {', '.join(ops.ALL)}")
    for target in adapter.targets:
        if not target.attribute:
            raise AdapterError(f"adapter {adapter.name}: target {target.path!r} must read module:attribute")
        if not callable(getattr(adapter, target.make, None)):
            raise AdapterError(f"adapter {adapter.name}: target {target.path} names no method {target.make!r}")
        try:
            SpecifierSet(target.versions)
        except InvalidSpecifier as error:
            raise AdapterError(f"adapter {adapter.name}: target {target.path}: versions: {error}") from None


def discover() -> list[type[Adapter]]:
    """Adapters of the entry-point group ``fib_plugin.adapters``; a broken one is logged and left out."""
    found: dict[str, type[Adapter]] = {}
    for entry in sorted(importlib.metadata.entry_points(group="fib_plugin.adapters"), key=lambda e: e.name):
        try:
            adapters = list(entry.load())
        except (Exception, SystemExit) as error:
            logger.warning("adapters %r could not be loaded and are left out: %r", entry.name, error)
            continue
        for adapter in adapters:
            try:
                check(adapter)
                if found.setdefault(adapter.name, adapter) is not adapter:
                    raise AdapterError(f"adapter {adapter.name}: {found[adapter.name]!r} has this name already")
            except AdapterError as error:
                logger.warning("an adapter of %r is left out: %s", entry.name, error)
    return list(found.values())
