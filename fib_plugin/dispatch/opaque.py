"""Opaque torch ops: seen at run time although the model around them was compiled or captured once.

Defined with ``torch.library.Library`` because ``custom_op`` costs 10-20 us a call. An op is defined once a process;
its body can be swapped, so that a graph that holds the op keeps working after the plugin was taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_NAMESPACE = "fib"
_library: Any = None
_ops: dict[str, Opaque] = {}


class OpaqueError(RuntimeError):
    """An op of that name exists with another schema; graphs may hold it, so it cannot be changed."""


class Opaque:
    """One op of the ``fib`` namespace: ``call`` goes into graphs, ``body`` runs on every call."""

    __slots__ = ("body", "call", "schema")

    def __init__(self, schema: str, body: Callable[..., Any]) -> None:
        self.schema = schema
        self.body = body
        self.call: Callable[..., Any] = body


def opaque(schema: str, body: Callable[..., Any], fake: Callable[..., Any]) -> Opaque:
    """The op of ``schema`` (``name(Tensor x) -> Tensor``), defined on first use, with ``body`` from now on.

    Args:
        schema: torch schema without namespace. What is written is marked (``Tensor(a!) x``), for graphs may reorder
            calls, and is written in place only where nothing else reads it: else the compiler makes a copy.
        body: gets real tensors, on CPU and CUDA.
        fake: gets fake tensors, returns tensors of the result's shape.

    Raises:
        OpaqueError: the name is defined with another schema.
    """
    global _library
    name = schema.partition("(")[0]
    known = _ops.get(name)
    if known is not None:
        if known.schema != schema:
            raise OpaqueError(f"op {_NAMESPACE}::{name} is defined as {known.schema}, not {schema}; take another name")
        known.body = body
        return known
    op = Opaque(schema, body)
    if _library is None:
        _library = torch.library.Library(_NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
    _library.define(schema)
    for key in ("CPU", "CUDA"):
        _library.impl(name, lambda *args: op.body(*args), key)
    _library._register_fake(name, fake)
    op.call = getattr(getattr(torch.ops, _NAMESPACE), name).default
    _ops[name] = op
    return op


def observer(schema: str, body: Callable[..., Any]) -> Opaque:
    """An op without a result, for calls that a graph keeps as they are: what is around it is compiled as without it.

    Args:
        schema: ``name(Tensor(a!) x) -> ()``. One tensor is declared as written to, although it is not: a compiler drops
            an op that nothing needs, and graphs that hold ops with effects cannot be kept in a cache. Take a tensor
            that lies in memory anyway and whole (an input of the graph, the result of a matrix product): of a view the
            compiler makes a copy, and what it would have computed in passing it must write for any argument. No weight:
            an engine that reads its ``.data`` could not be traced any more. Sizes go as SymInt.
        body: gets real tensors; what it returns is ignored.

    Raises:
        OpaqueError: the name is defined with another schema.
    """

    def look(*args: Any) -> None:
        body(*args)

    return opaque(schema, look, lambda *args: None)
