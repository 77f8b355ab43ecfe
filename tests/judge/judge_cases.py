"""Definitions for the tests of the judges."""

from __future__ import annotations

from fib_plugin import ops
from fib_plugin.schema import Definition

NORM = ops.ALL["rmsnorm"].definition(hidden_size=64, eps=1e-5, dtype="float32")
ADD_NORM = ops.ALL["fused_add_rmsnorm"].definition(hidden_size=64, eps=1e-5, dtype="float32")


def sampler(family: str, vocab_size: int) -> Definition:
    return ops.ALL[family].definition(vocab_size=vocab_size)
