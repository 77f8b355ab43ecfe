"""A serving engine of a few lines, installed with its metadata into a test's folder, and adapters for it."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fib_plugin.adapter import Adapter, Engine, Target

TOY = Engine("toy", ("toy-engine",))

FILES = {
    "__init__.py": "",
    "ops.py": """
def plan(x, scale=1):
    return x * scale

def silu_and_mul(x):
    d = x.shape[-1] // 2
    return (x[..., :d] / (1 + (-x[..., :d]).exp())) * x[..., d:]
""",
    "model.py": """
from toy.ops import plan, silu_and_mul
from toy.ops import plan as renamed
import toy.ops

def forward(x):
    return plan(x), renamed(x), toy.ops.plan(x)
""",
    "wrapper.py": """
class Base:
    def run(self, x):
        return x + 1

class Wrapper(Base):
    def plan(self, x):
        return x + 2

    begin_forward = plan

    @staticmethod
    def fixed(x):
        return x + 3

    @classmethod
    def made(cls, x):
        return x + 4

    class Inner:
        def deep(self, x):
            return x + 5

class Heir(Wrapper):
    start = Wrapper.plan

class Overriding(Wrapper):
    def plan(self, x):
        return x + 20
""",
    "late.py": """
from toy.ops import plan
from toy.wrapper import Wrapper, Heir

class Newcomer(Wrapper):
    start = Wrapper.plan

fixed = Wrapper.fixed
method = Wrapper.plan
""",
}


def write(folder: Path, version: str = "1.2.0") -> Path:
    """The engine's package and its metadata in ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "toy").mkdir(parents=True)
    for name, text in FILES.items():
        (folder / "toy" / name).write_text(text)
    metadata = folder / "toy_engine.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toy-engine\nVersion: {version}\n")
    return folder


def forget() -> None:
    for name in [name for name in sys.modules if name == "toy" or name.startswith("toy.")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Installs the engine for one test; yields its import."""
    forget()
    monkeypatch.syspath_prepend(str(write(folder)))
    yield lambda name: importlib.import_module(f"toy.{name}")
    forget()


class Plus(Adapter):
    """Adds 1000 to whatever the original returns."""

    name = "toy.plus"
    engine = TOY
    targets = (Target("toy.ops:plan", "wrap", ">=1,<2"),)
    amount = 1000

    def wanted(self) -> bool:
        return True

    def wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs) + (self.amount if self.live else 0)

        return wrapper


class Raising(Plus):
    """Cannot make its replacement."""

    name = "toy.raising"

    def wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        raise RuntimeError("cannot wrap")


def adapter(*paths: str, base: type[Adapter] = Plus, **fields: Any) -> type[Adapter]:
    """An adapter class for other targets: ``fields`` of Target (versions, params, optional, make) and of the class."""
    target = {key: fields.pop(key) for key in ("make", "versions", "params", "optional") if key in fields}
    targets = tuple(Target(path, **{"make": "wrap", "versions": ">=1,<2", **target}) for path in paths)
    return type("Made", (base,), {"targets": targets, **fields})
