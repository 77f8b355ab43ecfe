"""The op families that the parts share: definition templates, key axes, structural inputs, how they are judged."""

from __future__ import annotations

from fib_plugin.ops.evaluation import EvaluationConfig, evaluation_config
from fib_plugin.ops.family import ALL, family_of
from fib_plugin.ops.marks import MarkError, fill_constants
from fib_plugin.ops.spec import ANY_LENGTH, OpSpec, Tolerance, constants, length_class, reference_eps, structure
from fib_plugin.ops.tolerance import tolerance

__all__ = [
    "ALL",
    "ANY_LENGTH",
    "EvaluationConfig",
    "MarkError",
    "OpSpec",
    "Tolerance",
    "constants",
    "evaluation_config",
    "family_of",
    "fill_constants",
    "length_class",
    "reference_eps",
    "structure",
    "tolerance",
]
