"""Signatures from source are those that Python itself gives, however a name came to its place."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fib_plugin.patch import MissingError, locate

SCRIPTS = Path(__file__).parents[2] / "scripts"

FILES = {
    "toy_source/__init__.py": "from .layers import Norm as Exported, helper\nfrom . import layers as renamed\n",
    "toy_source/base.py": """
class Base:
    def forward(self, x, *, scale=1.0): ...
    class Inner:
        def run(self, a): ...
""",
    "toy_source/star.py": "from .layers import *\n",
    "toy_source/layers.py": """
import functools
from typing import TYPE_CHECKING, Generic, TypeVar, overload
from toy_source import base
from .base import Base
T = TypeVar("T")
if TYPE_CHECKING:
    def helper(wrong): ...

def helper(x: int, /, y: "str" = "a", *rest, key=None, **more) -> None: ...

def early(old): ...
def early(new, newer): ...

@overload
def many(x: int) -> int: ...
@overload
def many(x: str) -> str: ...
def many(x, y=0): ...

def logged(function):
    @functools.wraps(function)
    def inner(*args, **kwargs): return function(*args, **kwargs)
    return inner

class Norm(base.Base, Generic[T]):
    def plan(self, a, b=2): ...
    begin = plan
    @staticmethod
    def native(x): ...
    @logged
    def wrapped(self, x, y): ...
    cached = functools.lru_cache(plan)
    made = staticmethod(helper)

class Sub(Norm): ...
Alias = Sub
try:
    import toy_source_missing as fast
except ImportError:
    def either(x): ...
else:
    def either(x, fast): ...
unreadable = functools.partial(helper, 1)
""",
}

FOUND = [
    "toy_source:helper",
    "toy_source:Exported.plan",
    "toy_source:renamed.Norm.native",
    "toy_source.star:helper",
    "toy_source.star:Norm.plan",
    "toy_source.layers:early",
    "toy_source.layers:many",
    "toy_source.layers:Norm.plan",
    "toy_source.layers:Norm.begin",
    "toy_source.layers:Norm.native",
    "toy_source.layers:Norm.wrapped",
    "toy_source.layers:Norm.cached",
    "toy_source.layers:Norm.made",
    "toy_source.layers:Alias.Inner.run",
    "toy_source.layers:base.Base.forward",
]
ABSENT = [
    "toy_source.layers:absent",
    "toy_source.layers:Norm.absent",
    "toy_source.layers:Sub.plan",  # inherited: its owner is what must be named
    "toy_source.layers:Norm.forward",
    "toy_source.star:_hidden",
    "toy_source.absent:helper",
]


@pytest.fixture(scope="module")
def module() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module("source_signatures")
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture
def tree(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("toy_source")]:
        monkeypatch.delitem(sys.modules, name)
    return module.Source(tmp_path)


def live(path: str) -> str:
    """What Python says of the same target, without annotations."""
    name, _, attribute = path.partition(":")
    raw = locate(importlib.import_module(name), attribute)[2]
    signature = inspect.signature(getattr(raw, "__func__", raw))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("path", FOUND)
def test_the_signature_is_the_one_of_the_imported_function(tree: Any, path: str) -> None:
    assert tree.signatures(path) == [live(path)]


@pytest.mark.parametrize("path", ABSENT)
def test_what_could_not_be_patched_is_not_found(tree: Any, path: str) -> None:
    assert tree.signatures(path) == []
    with pytest.raises((MissingError, ModuleNotFoundError)):
        live(path)


def test_every_branch_of_a_condition_counts(tree: Any) -> None:
    assert tree.signatures("toy_source.layers:either") == ["(x)", "(x, fast)"]


def test_what_is_there_but_cannot_be_read_says_so(tree: Any, module: ModuleType) -> None:
    assert tree.signatures("toy_source.layers:unreadable") == [module.UNREADABLE]
