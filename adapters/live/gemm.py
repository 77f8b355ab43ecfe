"""HOT. A linear layer's call: one site for each weight, keyed by the number of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fib_plugin.adapters.live.dtype import NAMES

from fib_plugin import ops
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime


class LiveGemm:
    """Linear calls of one adapter.

    A weight is known by its object, as long as that holds the same memory; another object on the memory is known by
    address and shape, since a slice may start at the same address.

    Args:
        engine: the engine's op on (x [M, K], weight [N, K]), for probation.
    """

    def __init__(self, runtime: Runtime, adapter: str, engine: Callable[..., torch.Tensor] | None = None) -> None:
        self._runtime = runtime
        self._adapter = adapter
        self._original = None if engine is None else Original(engine)
        #: Object id -> (address, site, the object itself, so that its id and memory are not used again, K, dtype).
        self._weights: dict[int, tuple[int, Site, torch.Tensor, int, torch.dtype]] = {}
        self._sites: dict[tuple[int, torch.Size], Site] = {}

    def attempt(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
        """x [..., K] times weight [N, K] transposed, or None when the engine's op must answer."""
        known = self._weights.get(id(weight))
        if known is not None and known[0] == weight.data_ptr():
            site = known[1]
        else:
            site = self._sites.get((weight.data_ptr(), weight.shape)) or self._resolve(weight)
        shape = x.shape
        if len(shape) == 2:
            result: torch.Tensor | None = site.attempt(shape[0], (x, weight))
            return result
        flat = x.reshape(-1, x.shape[-1])
        result = site.attempt(flat.shape[0], (flat, weight))
        return None if result is None else result.reshape(*x.shape[:-1], weight.shape[0])

    def known_site(self, x: torch.Tensor, weight: torch.Tensor) -> Site | None:
        """The site to ask, if ``attempt`` has met this weight and x [rows, K] has its dtype: no other check is due."""
        known = self._weights.get(id(weight))
        if known is None or known[2] is not weight or x.dtype is not known[4]:
            return None
        shape = x.shape
        if len(shape) != 2 or shape[1] != known[3] or known[0] != weight.data_ptr():
            return None
        return known[1]

    def wins(self, n: int, k: int, dtype: torch.dtype) -> bool:
        """Whether a solution is proven for a weight of this shape at any number of rows."""
        return dtype in NAMES and self._runtime.wins(ops.ALL["gemm"].definition(n=n, k=k, dtype=NAMES[dtype]))

    def _resolve(self, weight: torch.Tensor) -> Site:
        n, k = weight.shape
        # A stand-in has the shape of a weight whose data the engine gave away: one element, expanded.
        stand_in = weight.numel() > 1 and weight.stride() == (0, 0)
        definition = ops.ALL["gemm"].definition(n=n, k=k, dtype=NAMES[weight.dtype])
        site = self._runtime.site(self._adapter, definition, observe_only=stand_in, original=self._original)
        self._weights[id(weight)] = (weight.data_ptr(), site, weight, k, weight.dtype)
        self._sites[weight.data_ptr(), weight.shape] = site
        return site
