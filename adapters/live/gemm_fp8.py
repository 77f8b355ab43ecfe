"""HOT. A linear layer with an fp8 weight: one site for each layer, keyed by the number of rows.

What a layer holds is looked at once (`describe`), in words of the definitions; a call then costs two lookups.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from fib_plugin.adapters.live.dtype import NAMES

from fib_plugin import ops
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.ops.gemm_fp8 import BLOCK, blocks
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

logger = logging.getLogger("fib_plugin")

#: What of the activations shares a scale: 128 columns of a row, a row, all of them; or the scale was calibrated.
Activations = Literal["group", "token", "tensor", "static"]
FAMILIES = {
    "group": "gemm_fp8_block_scale",
    "token": "gemm_fp8_rowwise",
    "tensor": "gemm_fp8_tensorwise",
    "static": "gemm_fp8_static",
}
#: The only size of blocks that definitions have.
BLOCK_SIZE = [BLOCK, BLOCK]


@dataclass(frozen=True, slots=True)
class Fp8Weight:
    """A layer's weight as a definition has it.

    Args:
        tail: the definition's inputs after A. They are views of what the layer holds, so that what is loaded into it
            later is seen.
        dtype: of activations and results.
    """

    definition: Definition
    tail: tuple[torch.Tensor, ...]
    dtype: torch.dtype
    k: int


def describe(
    weight: Any,
    scales: Any,
    n: int,
    k: int,
    dtype: torch.dtype,
    activations: Activations,
    input_scale: Any = None,
    ue8m0: bool = False,
) -> Fp8Weight | str:
    """What a layer holds, or in words why no definition has it.

    Args:
        weight: [n, k] with activations in groups, else transposed as a view, [k, n].
        scales: by blocks of 128 with activations in groups, else one number or n of them.
        ue8m0: scales of activations are rounded up to powers of two.
    """
    if not (isinstance(weight, torch.Tensor) and isinstance(scales, torch.Tensor)) or weight.is_meta:
        return "no weight is there yet"
    if weight.dtype is not torch.float8_e4m3fn or scales.dtype is not torch.float32:
        return f"weights in {weight.dtype} with scales in {scales.dtype}"
    if dtype not in NAMES:
        return f"activations in {dtype}"
    plain, scales = weight.data, scales.data
    if activations != "group" and plain.dim() == 2:
        plain = plain.t()
    if plain.shape != (n, k) or plain.stride(1) != 1:
        return f"a weight of shape {tuple(weight.shape)} and strides {weight.stride()} where it has {n} rows of {k}"
    if activations == "group":
        if scales.shape != (blocks(n), blocks(k)):
            return f"scales of shape {tuple(scales.shape)} where the weight has {blocks(n)} by {blocks(k)} blocks"
        definition = ops.ALL[FAMILIES[activations]].definition(n=n, k=k, dtype=NAMES[dtype], ue8m0=ue8m0)
        return Fp8Weight(definition, (plain, scales), dtype, k)
    if scales.numel() not in ((1,) if activations == "tensor" else (1, n)):
        return f"{scales.numel()} scales where the weight has {n} rows"
    definition = ops.ALL[FAMILIES[activations]].definition(n=n, k=k, dtype=NAMES[dtype])
    if activations == "tensor":
        return Fp8Weight(definition, (plain, scales.reshape(1)), dtype, k)
    rows = scales.reshape(-1).expand(n)
    if activations == "token":
        return Fp8Weight(definition, (plain, rows), dtype, k)
    if not isinstance(input_scale, torch.Tensor) or input_scale.numel() != 1 or input_scale.dtype is not torch.float32:
        return "a calibrated scale that is not one number"
    return Fp8Weight(definition, (input_scale.data.reshape(1), plain, rows), dtype, k)


class Known:
    """One layer, looked at: its site, or why it has none (an empty ``why``: nothing is proven for it)."""

    __slots__ = ("address", "dtype", "k", "layer", "parameter", "reason", "site", "tail", "why")

    def __init__(self, layer: Any, parameter: Any, site: Site | None, held: Fp8Weight | None, why: str) -> None:
        broken = why == Reason.INTERNAL_ERROR.value
        self.reason = Reason.INTERNAL_ERROR if broken else Reason.UNSUPPORTED_ARGUMENT
        self.layer = layer
        self.parameter = parameter
        self.address = parameter.data_ptr() if isinstance(parameter, torch.Tensor) else 0
        self.site = site
        self.tail = held.tail if held is not None else ()
        self.dtype = held.dtype if held is not None else None
        self.k = held.k if held is not None else 0
        self.why = why


class LiveGemmFp8:
    """Linear calls of one adapter whose layers keep their weight as the parameter ``weight``.

    Args:
        look: what the layer of a quant method holds (see `describe`).
        engine: the engine's op on (method, layer, x [M, K]), for probation.
    """

    def __init__(
        self,
        runtime: Runtime,
        adapter: str,
        look: Callable[[Any, Any], Fp8Weight | str],
        engine: Callable[[Any, Any, torch.Tensor], torch.Tensor],
    ) -> None:
        self._runtime = runtime
        self._adapter = adapter
        self._look = look
        self._run = engine
        self._original = Original(self._engine)
        self._failed = False
        self._layers: dict[int, Known] = {}
        #: By the address of a weight: the quant method and its layer.
        self._owners: dict[int, tuple[Any, Any]] = {}

    def attempt(self, method: Any, layer: Any, x: Any) -> torch.Tensor | None:
        """x [..., K] times the layer's weight transposed, or None when the engine's op must answer."""
        known = self._layers.get(id(layer))
        parameter = layer._parameters.get("weight")
        if known is None or known.parameter is not parameter or known.address != parameter.data_ptr():
            known = self.meet(method, layer)
        site = known.site
        if site is None:
            if known.why:
                self._runtime.decline(self._adapter, known.reason)
            return None
        # Some layers are handed what a norm before them has quantized already.
        if not isinstance(x, torch.Tensor) or x.dtype is not known.dtype or x.shape[-1] != known.k:
            self._runtime.decline(self._adapter)
            return None
        shape = x.shape
        if len(shape) == 2:
            result: torch.Tensor | None = site.attempt(shape[0], (x, *known.tail))
            return result
        flat = x.reshape(-1, known.k)
        result = site.attempt(flat.shape[0], (flat, *known.tail))
        return None if result is None else result.reshape(*shape[:-1], result.shape[-1])

    def meet(self, method: Any, layer: Any) -> Known:
        """Cold: looks at a layer, the first time or after its weight was replaced."""
        parameter = layer._parameters.get("weight")
        old = self._layers.pop(id(layer), None)
        if old is not None:
            self._owners.pop(old.address, None)
        site, held, why = None, None, ""
        try:
            found = self._look(method, layer)
            if isinstance(found, str):
                why = found
                self._runtime.note(f"{self._adapter}: fp8 layers are left to the engine: {why}")
            elif self._runtime.tracing or self._runtime.wins(found.definition):
                held = found
                site = self._runtime.site(self._adapter, found.definition, original=self._original)
        except Exception:
            if self._runtime.settings.strict:
                raise
            why = Reason.INTERNAL_ERROR.value
            if not self._failed:  # a model has hundreds of layers that are alike
                logger.warning("could not look at fp8 layers of %s; the engine answers", self._adapter, exc_info=True)
            self._failed = True
        known = self._layers[id(layer)] = Known(layer, parameter, site, held, why)
        if site is not None:
            self._owners[known.address] = method, layer
        return known

    def _engine(self, x: torch.Tensor, *tail: torch.Tensor) -> torch.Tensor:
        return self._run(*self._owners[tail[-2].data_ptr()], x)
