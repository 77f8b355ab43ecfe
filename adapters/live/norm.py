"""HOT. Norm calls: one site for each weight, keyed by the number of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES

from fib_plugin import ops
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime

#: A weight by address and shape (a slice may start at the same address), and what else the definition fixes.
_Key = tuple[int, torch.Size, torch.dtype, float]
#: What one weight object was resolved to: address, dtype and eps it holds for, site, the plain tensor that solutions
#: are given, and the object itself, kept alive.
_Known = tuple[int, torch.dtype, float, Site, torch.Tensor, torch.Tensor]


class LiveNorm:
    """rmsnorm and fused_add_rmsnorm calls of one adapter.

    Args:
        engine: by family, the engine's op on the definition's inputs and eps, for probation.
        in_place: whether the adapter writes results of fused_add_rmsnorm to where the engine's op does (write_back).
    """

    def __init__(
        self,
        runtime: Runtime,
        adapter: str,
        engine: Mapping[str, Callable[..., Any]] | None = None,
        in_place: bool = False,
    ) -> None:
        self._runtime = runtime
        self._in_place = in_place
        self._adapter = adapter
        self._engine = engine or {}
        self._plain: dict[int, _Known] = {}
        self._fused: dict[int, _Known] = {}
        self._sites: dict[tuple[str, _Key], Site] = {}

    def rmsnorm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor | None:
        """Normalised x [..., H], or None when the engine's op must answer."""
        known = self._plain.get(id(weight))
        if known is not None and known[0] == weight.data_ptr() and known[1] is x.dtype and known[2] == eps:
            site, weight = known[3], known[4]
        else:
            site, weight = self._resolve(self._plain, "rmsnorm", x, weight, eps)
        shape = x.shape
        if len(shape) == 2:
            result: torch.Tensor | None = site.attempt(shape[0], (x, weight))
            return result
        rows = x.reshape(-1, shape[-1])
        result = site.attempt(rows.shape[0], (rows, weight))
        return None if result is None else result.reshape(shape)

    def fused_add_rmsnorm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(normalised x + residual, x + residual), or None when the engine's op must answer."""
        known = self._fused.get(id(weight))
        if known is not None and known[0] == weight.data_ptr() and known[1] is x.dtype and known[2] == eps:
            site, weight = known[3], known[4]
        else:
            site, weight = self._resolve(self._fused, "fused_add_rmsnorm", x, weight, eps)
        shape = x.shape
        flat = len(shape) == 2
        rows = x if flat else x.reshape(-1, shape[-1])
        added = residual if flat else residual.reshape(-1, shape[-1])
        result = site.attempt(shape[0] if flat else rows.shape[0], (rows, added, weight))
        if result is None:
            return None
        if isinstance(result, torch.Tensor):
            # Definitions of other tools leave the sum out.
            result = (result, rows + added)
        return result if flat else (result[0].reshape(x.shape), result[1].reshape(x.shape))

    def wins(self, family: str, hidden_size: int, eps: float, dtype: torch.dtype) -> bool:
        """Whether a solution of ``family`` is proven for this width at any number of rows."""
        if dtype not in NAMES:
            return False
        return self._runtime.wins(ops.ALL[family].definition(hidden_size=hidden_size, eps=eps, dtype=NAMES[dtype]))

    def _resolve(
        self, objects: dict[int, _Known], family: str, x: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[Site, torch.Tensor]:
        key = (family, (weight.data_ptr(), weight.shape, x.dtype, eps))
        site, plain = self._sites.get(key), weight.detach()
        new = site is None
        if site is None:
            definition = ops.ALL[family].definition(hidden_size=x.shape[-1], eps=eps, dtype=NAMES[x.dtype])
            engine = self._engine.get(family)
            original = None if engine is None else Original(lambda *inputs: engine(*inputs, eps))
            if original is not None and self._in_place and family == "fused_add_rmsnorm":
                original.finish, original.places = _finish, (0, 1)
            site = self._sites[key] = self._runtime.site(self._adapter, definition, original=original)
        # Other objects on the same memory may be made anew for each call: only a layer's own is worth knowing.
        if new or isinstance(weight, torch.nn.Parameter):
            objects[id(weight)] = (weight.data_ptr(), x.dtype, eps, site, plain, weight)
        return site, plain


def write_back(result: tuple[torch.Tensor, torch.Tensor], inputs: tuple[Any, ...]) -> None:
    """(normalised, sum) into (x, residual), the first two of ``inputs``; nothing moves where they are there already."""
    (normalised, added), (x, residual, *_) = result, inputs
    if normalised is x and added is residual:
        return
    if added.data_ptr() == x.data_ptr():
        added = added.clone()
    if normalised.data_ptr() != x.data_ptr():
        x.copy_(normalised)
    if added.data_ptr() != residual.data_ptr():
        residual.copy_(added)


def _finish(result: Any, inputs: tuple[Any, ...]) -> None:
    write_back((result, inputs[0] + inputs[1]) if isinstance(result, torch.Tensor) else result, inputs)
