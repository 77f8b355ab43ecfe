"""HOT. A linear layer with an fp8 weight: one site for each layer, keyed by the number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.layers import Held, LiveLayers

from fib_plugin import ops
from fib_plugin.dispatch.site import Original
from fib_plugin.ops.gemm_fp8 import BLOCK, blocks
from fib_plugin.runtime import Runtime

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


def describe(
    weight: Any,
    scales: Any,
    n: int,
    k: int,
    dtype: torch.dtype,
    activations: Activations,
    input_scale: Any = None,
    ue8m0: bool = False,
) -> Held | str:
    """What a layer holds, or in words why no definition has it.

    Args:
        weight: [n, k] with activations in groups, else transposed as a view, [k, n].
        scales: by blocks of 128 with activations in groups, else one number or n of them.
        ue8m0: scales of activations are rounded up to powers of two.
    """
    wrong = wrong_format(weight, scales, dtype)
    if wrong:
        return wrong
    plain, scales = weight.data, scales.data
    if activations != "group" and plain.dim() == 2:
        plain = plain.t()
    if plain.shape != (n, k) or plain.stride(1) != 1:
        return f"a weight of shape {tuple(weight.shape)} and strides {weight.stride()} where it has {n} rows of {k}"
    if activations == "group":
        if scales.shape != (blocks(n), blocks(k)):
            return f"scales of shape {tuple(scales.shape)} where the weight has {blocks(n)} by {blocks(k)} blocks"
        definition = ops.ALL[FAMILIES[activations]].definition(n=n, k=k, dtype=NAMES[dtype], ue8m0=ue8m0)
        return Held(definition, (plain, scales), dtype, k)
    if scales.numel() not in ((1,) if activations == "tensor" else (1, n)):
        return f"{scales.numel()} scales where the weight has {n} rows"
    definition = ops.ALL[FAMILIES[activations]].definition(n=n, k=k, dtype=NAMES[dtype])
    if activations == "tensor":
        return Held(definition, (plain, scales.reshape(1)), dtype, k)
    rows = scales.reshape(-1).expand(n)
    if activations == "token":
        return Held(definition, (plain, rows), dtype, k)
    if not isinstance(input_scale, torch.Tensor) or input_scale.numel() != 1 or input_scale.dtype is not torch.float32:
        return "a calibrated scale that is not one number"
    return Held(definition, (input_scale.data.reshape(1), plain, rows), dtype, k)


def wrong_format(weight: Any, scales: Any, dtype: torch.dtype) -> str:
    """What no fp8 definition has of a weight, its scales and the activations' dtype, in words; empty if all is well."""
    if not (isinstance(weight, torch.Tensor) and isinstance(scales, torch.Tensor)) or weight.is_meta:
        return "no weight is there yet"
    if weight.dtype is not torch.float8_e4m3fn or scales.dtype is not torch.float32:
        return f"weights in {weight.dtype} with scales in {scales.dtype}"
    return "" if dtype in NAMES else f"activations in {dtype}"


class LiveGemmFp8(LiveLayers):
    """Linear calls of one adapter whose layers keep their weight as the parameter ``weight``.

    Args:
        look: what the layer of a quant method holds (see `describe`).
        engine: the engine's op on (method, layer, x [M, K]), for probation.
    """

    def __init__(
        self,
        runtime: Runtime,
        adapter: str,
        look: Callable[[Any, Any], Held | str],
        engine: Callable[[Any, Any, torch.Tensor], torch.Tensor],
    ) -> None:
        super().__init__(runtime, adapter, "weight", look, Original(self._engine))
        self._run = engine

    def attempt(self, method: Any, layer: Any, x: Any) -> torch.Tensor | None:
        """x [..., K] times the layer's weight transposed, or None when the engine's op must answer."""
        known = self.known(method, layer)
        if known is None or not self.fits(known, x):
            return None
        shape = x.shape
        if len(shape) == 2:
            result: torch.Tensor | None = known.site.attempt(shape[0], (x, *known.tail))  # type: ignore[union-attr]
            return result
        flat = x.reshape(-1, known.width)
        result = known.site.attempt(flat.shape[0], (flat, *known.tail))  # type: ignore[union-attr]
        return None if result is None else result.reshape(*shape[:-1], result.shape[-1])

    def _engine(self, x: torch.Tensor, *tail: torch.Tensor) -> torch.Tensor:
        return self._run(*self.owners[tail[-2].data_ptr()], x)
