"""Reaches into SGLang's scheduler process: a plugin of SGLang through which scripts mark, look at and uninstall ours.

``enlist(folder)`` returns the environment that makes an engine load it; ``ask(engine, what, argument)`` then runs one
of ANSWERS in the scheduler. Used by the engine tests and scripts/gpu_sglang.py, part of no installation.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import watermarks

#: What a hooked function was before any plugin came, by target; only where FIB_PROBE_STOCK=1 asks for it.
_stock: dict[str, Any] = {}


class _Flags(types.ModuleType):
    """Makes the flags of watermarks.py where they are first asked for: not in the front end, which has no device."""

    def __init__(self, device: str) -> None:
        super().__init__(watermarks.MODULE)
        self.device = device

    def __getattr__(self, name: str) -> Any:
        if name != "flags":
            raise AttributeError(name)
        self.flags = watermarks.raise_flags(self.device)
        return self.flags


def enlist(folder: Path) -> dict[str, str]:
    """PYTHONPATH for an engine that is to load the probe; ``folder`` gets the entry point."""
    metadata = folder / "sglang_probe-0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang-probe\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[sglang.srt.plugins]\nsglang_probe = sglang_probe:register\n")
    paths = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def ask(engine: Any, what: str, argument: str = "") -> Any:
    """The answer of the scheduler of ``engine``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answer.json"
        engine.collective_rpc("fib_probe", what=what, argument=argument, out=str(out))
        return json.loads(out.read_text())


def register() -> None:
    """What SGLang calls in every process."""
    import wrapt

    if os.environ.get("FIB_PROBE_STOCK") == "1":
        _stock.update(_targets())
    if (device := os.environ.get("FIB_PROBE_MARKS")) is not None:
        sys.modules.setdefault(watermarks.MODULE, _Flags(device))
    wrapt.register_post_import_hook(_arrived, "sglang.srt.managers.scheduler")


def _arrived(module: Any) -> None:
    def fib_probe(scheduler: Any, what: str, argument: str, out: str) -> None:
        Path(out).write_text(json.dumps(ANSWERS[what](argument)))

    module.Scheduler.fib_probe = fib_probe


def _targets() -> dict[str, Any]:
    from importlib import import_module

    from fib_plugin.adapter import discover, supports
    from fib_plugin.patch import locate

    found = {}
    for adapter in discover():
        if adapter.engine.name != "sglang":
            continue
        for target in adapter.targets:
            if supports(adapter.engine, target) is None:
                try:
                    found[target.path] = locate(import_module(target.module), target.attribute)[2]
                except (ImportError, AttributeError):  # a backend of other hardware
                    continue
    return found


def _mark(argument: str) -> None:
    os.environ["FIB_TEST_MARK"] = argument
    module: Any = sys.modules.get(watermarks.MODULE)
    for name, flag in (module.flags if module is not None else {}).items():
        flag.fill_(1.0 if argument in (name, "all") else 0.0).item()  # on the device before the next replay


def _uninstall(argument: str) -> None:
    from fib_plugin import plugin

    plugin.deactivate()


def _snapshot(argument: str) -> dict[str, Any] | None:
    from fib_plugin import plugin

    active = plugin.active()
    return active.runtime.snapshot() if active is not None else None


def _placed(argument: str) -> dict[str, Any]:
    from gpu_engine import placed

    return placed()


def _objects(argument: str) -> dict[str, bool]:
    """By target: whether the function is the engine's own again."""
    return {path: found is _stock.get(path) for path, found in _targets().items()}


ANSWERS: dict[str, Callable[[str], Any]] = {
    "mark": _mark,
    "uninstall": _uninstall,
    "snapshot": _snapshot,
    "objects": _objects,
    "placed": _placed,
    "pid": lambda argument: os.getpid(),
}
