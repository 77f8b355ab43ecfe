"""Integrity: what a solution may find in its process and replace, as it was before the solution was read.

It runs in the solution's own process, so a cheat that knows it can deceive it; what counts (values, times) the parent
judges by itself. This names the cheat where it can.
"""

from __future__ import annotations

import builtins
import gc
import sys
import threading
import time
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import msgspec
import torch

_SHOWN = 6
#: torch's compiler wraps this one itself when it is first imported.
_WRAPPED_BY_TORCH = ("torch.manual_seed",)
_OWN = ("fib_plugin.bench", "fib_plugin.build", "fib_plugin.dispatch", "fib_plugin.schema")


def snapshot() -> Callable[[], list[str]]:
    """Remember everything; the function that is returned names what has been replaced since.

    Additions are no foul: libraries add to torch's modules when they are first used.
    """
    known = [(name, owner, vars(owner), _callables(owner)) for name, owner in _owners()]
    codes = [
        (f"{name}.{key}", value, value.__code__)
        for name, owner, _, members in known
        if name.startswith("fib_plugin")
        for key, value in members.items()
        if type(value) is FunctionType
    ]
    hooks = (sys.gettrace, sys.getprofile, lambda: torch._C._len_torch_dispatch_stack() or None)
    missing = object()

    def changed() -> list[str]:
        found = []
        for name, owner, members, before in known:
            found += [
                f"{name}.{key}"
                for key, value in before.items()
                if members.get(key, missing) is not value and f"{name}.{key}" not in _WRAPPED_BY_TORCH
            ]
            if isinstance(owner, type) and len(members) > len(before):
                # Python-level classes over C ones: a new name may hide what was inherited.
                found += [f"{name}.{key}" for key in members if key not in before and _inherited(owner, key)]
        found += [name for name, function, code in codes if function.__code__ is not code]
        found += ["a hook of the interpreter" for hook in hooks if hook() is not None]
        return found[:_SHOWN]

    return changed


def _owners() -> list[tuple[str, Any]]:
    """Modules and classes whose members are watched."""
    found: list[tuple[str, Any]] = [
        ("builtins", builtins),
        ("time", time),
        ("gc", gc),
        ("threading", threading),
        ("msgspec", msgspec),
        ("torch", torch),
        ("torch.Tensor", torch.Tensor),
        ("torch.nn.functional", torch.nn.functional),
        ("torch.cuda", torch.cuda),
        ("torch.cuda.Event", torch.cuda.Event),
        ("torch.cuda.Stream", torch.cuda.Stream),
        ("torch.utils.dlpack", torch.utils.dlpack),
    ]
    if hasattr(torch._C, "_CUDAGraph"):
        found.append(("torch._C._CUDAGraph", torch._C._CUDAGraph))
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name.startswith(_OWN):
            found.append((name, module))
            found += [
                (f"{name}.{key}", value)
                for key, value in vars(module).items()
                if isinstance(value, type) and value.__module__ == name
            ]
    return found


def _callables(owner: Any) -> dict[str, Any]:
    """Members that do something; plain values, caches among them, may change."""
    if isinstance(owner, type):
        return dict(vars(owner))
    return {key: value for key, value in vars(owner).items() if callable(value)}


def _inherited(owner: type, key: str) -> bool:
    return not key.startswith("__") and any(key in vars(base) for base in owner.__mro__[1:])
