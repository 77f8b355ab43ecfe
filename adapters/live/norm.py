"""HOT. Norm calls: one site for each weight, keyed by the number of rows."""

from __future__ import annotations

import torch
from fib_plugin.adapters.live.dtype import NAMES

from fib_plugin import ops
from fib_plugin.dispatch.site import Site
from fib_plugin.runtime import Runtime

#: A weight by address and shape (a slice may start at the same address), and what else the definition fixes.
_Key = tuple[int, torch.Size, torch.dtype, float]


class LiveNorm:
    """rmsnorm and fused_add_rmsnorm calls of one adapter."""

    def __init__(self, runtime: Runtime, adapter: str) -> None:
        self._runtime = runtime
        self._adapter = adapter
        self._plain: dict[_Key, Site] = {}
        self._fused: dict[_Key, Site] = {}
        self._alive: list[torch.Tensor] = []

    def rmsnorm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor | None:
        """Normalised x [..., H], or None when the engine's op must answer."""
        known = self._plain.get((weight.data_ptr(), weight.shape, x.dtype, eps))
        site = known or self._resolve(self._plain, "rmsnorm", x, weight, eps)
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        result: torch.Tensor | None = site.attempt(rows.shape[0], (rows, weight))
        return result if result is None or x.dim() == 2 else result.reshape(x.shape)

    def fused_add_rmsnorm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(normalised x + residual, x + residual), or None when the engine's op must answer."""
        known = self._fused.get((weight.data_ptr(), weight.shape, x.dtype, eps))
        site = known or self._resolve(self._fused, "fused_add_rmsnorm", x, weight, eps)
        flat = x.dim() == 2
        rows = x if flat else x.reshape(-1, x.shape[-1])
        added = residual if flat else residual.reshape(-1, x.shape[-1])
        result = site.attempt(rows.shape[0], (rows, added, weight))
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

    def _resolve(self, sites: dict[_Key, Site], family: str, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Site:
        definition = ops.ALL[family].definition(hidden_size=x.shape[-1], eps=eps, dtype=NAMES[x.dtype])
        site = self._runtime.site(self._adapter, definition)
        self._alive.append(weight.detach())
        sites[weight.data_ptr(), weight.shape, x.dtype, eps] = site
        return site
