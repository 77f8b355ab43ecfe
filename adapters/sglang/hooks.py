"""SGLang's HookRegistry as the plugin uses it: AROUND hooks, applied when a target's module has arrived, and verified.

SGLang only logs a hook that it could not apply, so what stands at the target afterwards is looked at.
"""

from __future__ import annotations

import importlib
from typing import Any

from fib_plugin.adapter import Hook

_MODULE = "sglang.srt.plugins.hook_registry"


class Hooks:
    """A Registry on ``sglang.srt.plugins``; what it leaves alone, or all where there is none, is patched directly."""

    def place(self, path: str, hook: Hook) -> Any:
        module = _hook_registry()
        if module is None:
            return None
        module.HookRegistry.register(_dotted(path), hook, module.HookType.AROUND)
        # Modules arrive one by one, most of them long after SGLang applied what its plugins had registered.
        module.HookRegistry.apply_hooks()
        found = _standing(path)
        return found if _holds(getattr(found, "__func__", found), hook) else None

    def withdraw(self, path: str, hook: Hook) -> None:
        module = _hook_registry()
        if module is None:
            return
        registry, dotted = module.HookRegistry, _dotted(path)
        left = [entry for entry in registry._hooks.get(dotted, ()) if entry[1] is not hook]
        if left:
            registry._hooks[dotted] = left
        else:
            registry._hooks.pop(dotted, None)
            registry._patched.discard(dotted)


def _hook_registry() -> Any:
    try:
        return importlib.import_module(_MODULE)
    except ImportError:
        return None


def _dotted(path: str) -> str:
    return path.replace(":", ".")


def _standing(path: str) -> Any:
    """What stands at a target, as its owner holds it."""
    module, _, attribute = path.partition(":")
    *owners, name = attribute.split(".")
    holder: Any = importlib.import_module(module)
    for owner in owners:
        holder = getattr(holder, owner)
    return vars(holder).get(name)


def _holds(function: Any, hook: Hook) -> bool:
    """Whether ``function`` is a chain of SGLang's wrappers one of which calls this very hook."""
    while function is not None:
        cells = getattr(function, "__closure__", None) or ()
        if any(cell.cell_contents is hook for cell in cells):
            return True
        function = getattr(function, "__wrapped__", None)
    return False
