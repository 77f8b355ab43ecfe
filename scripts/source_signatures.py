"""Signatures of functions read from source: what ``inspect.signature`` would say, without importing anything.

Finds what ``fib_plugin.patch.locate`` finds at run time: through imports by name, star imports, assignments, class
aliases and bases; the last part of a path must be defined by its owner itself. snapshot_engine.py uses it.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

#: Says that a name is there and that its parameters cannot be read from source.
UNREADABLE = "(...)"
#: Calls that leave the signature of their first argument alone.
_TRANSPARENT = {"staticmethod", "classmethod", "partialmethod", "cache", "lru_cache", "compile"}
_DEPTH = 40

Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"


@dataclass(slots=True)
class Scope:
    """A module or a class body: what its names may be bound to. A package's name ends in ``.__init__``."""

    module: Scope | None
    name: str
    body: list[ast.stmt]
    bases: list[ast.expr] = field(default_factory=list)
    _bound: dict[str, list[Binding]] | None = None

    @property
    def home(self) -> Scope:
        return self if self.module is None else self.module

    @property
    def bound(self) -> dict[str, list[Binding]]:
        if self._bound is None:
            self._bound = {}
            for name, binding, certain in _bindings(self.body, certain=True):
                known = self._bound.setdefault(name, [])
                if certain and name != "*":
                    known.clear()
                known.append(binding)
        return self._bound


@dataclass(frozen=True, slots=True)
class Imported:
    """``from module import name``, or ``import module`` without a name."""

    level: int
    module: str
    name: str = ""


Binding: TypeAlias = "Function | ast.ClassDef | ast.expr | Imported"
Found: TypeAlias = "Function | Scope | None"


class Source:
    """A folder of packages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, Scope | None] = {}

    def signatures(self, path: str) -> list[str]:
        """Each signature that ``module:attribute.path`` may have, as text without annotations; [] without it."""
        name, _, attribute = path.partition(":")
        module = self.module(name)
        if module is None:
            return []
        *owners, last = attribute.split(".")
        scopes: list[Scope] = [module]
        for part in owners:
            scopes = [found for s in scopes for found in self._member(s, part, 0) if isinstance(found, Scope)]
        found = [f for scope in scopes for f in self._own(scope, last, 0)]
        return sorted(
            {_signature(f) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) else UNREADABLE for f in found}
        )

    def module(self, name: str) -> Scope | None:
        if name not in self._modules:
            base = self.root.joinpath(*name.split("."))
            self._modules[name] = None
            for file, scope_name in ((base / "__init__.py", f"{name}.__init__"), (base.with_suffix(".py"), name)):
                if file.is_file():
                    body = ast.parse(file.read_text(encoding="utf-8")).body
                    self._modules[name] = Scope(None, scope_name, body)
                    break
        return self._modules[name]

    def _own(self, scope: Scope, name: str, depth: int) -> list[Found]:
        """What ``vars(scope)[name]`` may be; None for what cannot be followed."""
        if depth > _DEPTH:
            return [None]
        found: list[Found] = []
        for binding in scope.bound.get(name, ()):
            found += self._follow(scope, binding, depth + 1)
        if not found and scope.module is None:
            for binding in scope.bound.get("*", ()):
                assert isinstance(binding, Imported)
                other = self.module(_absolute(scope, binding))
                if other is not None and other is not scope and not name.startswith("_"):
                    found += self._own(other, name, depth + 1)
            if not found:
                submodule = self.module(f"{scope.name.removesuffix('.__init__')}.{name}")
                found += [submodule] if submodule is not None else []
        return found

    def _member(self, scope: Scope, name: str, depth: int) -> list[Found]:
        """What ``getattr(scope, name)`` may be: bases count."""
        found = self._own(scope, name, depth)
        for base in scope.bases if not found and depth <= _DEPTH else ():
            for parent in self._follow(scope.home, base, depth + 1):
                found += self._member(parent, name, depth + 1) if isinstance(parent, Scope) else []
        return found

    def _follow(self, scope: Scope, binding: Binding, depth: int) -> list[Found]:
        if isinstance(binding, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return [binding]
        if isinstance(binding, ast.ClassDef):
            return [Scope(scope.home, binding.name, binding.body, binding.bases)]
        if isinstance(binding, Imported):
            module = self.module(_absolute(scope.home, binding))
            if module is None:
                return [None]
            return self._own(module, binding.name, depth) if binding.name else [module]
        if isinstance(binding, ast.Name):
            return self._own(scope, binding.id, depth) or self._own(scope.home, binding.id, depth) or [None]
        if isinstance(binding, ast.Attribute):
            owners = self._follow(scope, binding.value, depth)
            found = [f for o in owners if isinstance(o, Scope) for f in self._member(o, binding.attr, depth)]
            return found or [None]
        if isinstance(binding, ast.IfExp):
            return self._follow(scope, binding.body, depth) + self._follow(scope, binding.orelse, depth)
        if isinstance(binding, ast.Subscript):  # a generic base: Base[T]
            return self._follow(scope, binding.value, depth)
        if isinstance(binding, ast.Call) and len(binding.args) == 1 and _called(binding) in _TRANSPARENT:
            return self._follow(scope, binding.args[0], depth)
        return [None]


def _bindings(body: list[ast.stmt], certain: bool) -> Iterator[tuple[str, Binding, bool]]:
    """(name, what it is bound to, whether that happens whatever the conditions) in order."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if not any(_called(decorator) == "overload" for decorator in statement.decorator_list):
                yield statement.name, statement, certain
        elif isinstance(statement, ast.ClassDef):
            yield statement.name, statement, certain
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                imported = Imported(statement.level, statement.module or "", "" if alias.name == "*" else alias.name)
                yield alias.asname or alias.name, imported, certain
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or whole, Imported(0, whole), certain
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    yield target.id, statement.value, certain
        elif isinstance(statement, ast.AnnAssign):
            if isinstance(statement.target, ast.Name) and statement.value is not None:
                yield statement.target.id, statement.value, certain
        elif isinstance(statement, ast.If):
            typing_only = ast.unparse(statement.test).endswith("TYPE_CHECKING")
            yield from _bindings([] if typing_only else statement.body, False)
            yield from _bindings(statement.orelse, False)
        elif isinstance(statement, ast.Try):
            for branch in (statement.body, *(h.body for h in statement.handlers), statement.orelse):
                yield from _bindings(branch, False)
            yield from _bindings(statement.finalbody, certain)
        elif isinstance(statement, ast.With):
            yield from _bindings(statement.body, certain)


def _absolute(scope: Scope, imported: Imported) -> str:
    if not imported.level:
        return imported.module
    # A package's own name counts as a part, so that one level leads into the package.
    parents = scope.name.split(".")[: -imported.level]
    return ".".join([*parents, *([imported.module] if imported.module else [])])


def _called(node: ast.expr) -> str:
    """The last name of what is called or used as a decorator."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _signature(function: Function) -> str:
    arguments = copy.deepcopy(function.args)
    for node in ast.walk(arguments):
        if isinstance(node, ast.arg):
            node.annotation = None
    return f"({ast.unparse(arguments)})"
