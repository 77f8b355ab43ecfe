"""Looks for the definition among all objects and in the caller's variables, and runs its reference text."""
# expect: status=INCORRECT_NUMERICAL,RUNTIME_ERROR foul=wrong_values,sandbox,crashed definition=silu
import gc
import sys

import torch


def _reference():
    seen, frame = gc.get_objects(), sys._getframe()
    while frame is not None:
        seen += list(frame.f_locals.values())
        frame = frame.f_back
    for one in list(seen):
        try:
            text = getattr(one, "__dict__", {}).get("reference") if not isinstance(one, type) else None
        except Exception:
            continue
        if isinstance(text, str) and "sigmoid" in text:
            scope = {}
            exec(text, scope)
            return scope["run"]
    return None


_run = None


def run(x):
    global _run
    _run = _run or _reference()
    return _run(x) if _run else torch.zeros(x.shape[0], x.shape[1] // 2)
