"""Stands in for SGLang's kernels, which have no CPU wheel. SGLang imports names from it and calls none without AMX."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"sgl_kernel.{name} is only a name here: these tests have no such kernel")

    return missing
