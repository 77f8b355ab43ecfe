"""fib-plugin: capture real LLM-serving workloads, benchmark kernels on them, run the proven ones in the engine.

The public API, nothing else. Every name is loaded on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fib_plugin.api import apply, disable_apply, disable_tracing, enable_apply, enable_tracing
    from fib_plugin.dataset import TraceSet
    from fib_plugin.schema import (
        Definition,
        Evaluation,
        EvaluationStatus,
        Solution,
        Trace,
        Workload,
    )

__version__ = "0.1.0"

_HOMES = {
    "apply": "fib_plugin.api",
    "enable_apply": "fib_plugin.api",
    "disable_apply": "fib_plugin.api",
    "enable_tracing": "fib_plugin.api",
    "disable_tracing": "fib_plugin.api",
    "TraceSet": "fib_plugin.dataset",
    "Definition": "fib_plugin.schema",
    "Workload": "fib_plugin.schema",
    "Solution": "fib_plugin.schema",
    "Trace": "fib_plugin.schema",
    "Evaluation": "fib_plugin.schema",
    "EvaluationStatus": "fib_plugin.schema",
}

__all__ = [
    "Definition",
    "Evaluation",
    "EvaluationStatus",
    "Solution",
    "Trace",
    "TraceSet",
    "Workload",
    "apply",
    "disable_apply",
    "disable_tracing",
    "enable_apply",
    "enable_tracing",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fib_plugin' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
