"""HOT. Layers that are looked at once, in words of the definitions, and again when their weights were replaced.

For quantized layers, whose form a kernel decides when they are loaded: what a layer holds is found out by an engine's
``look``; a call then costs two lookups.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

logger = logging.getLogger("fib_plugin")


@dataclass(frozen=True, slots=True)
class Held:
    """What a layer holds, as a definition has it.

    Args:
        tail: the definition's inputs that belong to the layer. They are views of what it holds, so that what is loaded
            into it later is seen.
        dtype: of activations and results.
        width: of activations.
    """

    definition: Definition
    tail: tuple[torch.Tensor, ...]
    dtype: torch.dtype
    width: int


class Known:
    """A layer that was looked at: its site, or why it has none (an empty ``why``: nothing is proven for it)."""

    __slots__ = ("address", "dtype", "layer", "parameter", "reason", "site", "tail", "why", "width")

    def __init__(self, layer: Any, parameter: Any, site: Site | None, held: Held | None, why: str) -> None:
        self.layer = layer
        self.parameter = parameter
        self.address = parameter.data_ptr() if isinstance(parameter, torch.Tensor) else 0
        self.site = site
        self.tail = held.tail if held is not None else ()
        self.dtype = held.dtype if held is not None else None
        self.width = held.width if held is not None else 0
        self.why = why
        broken = why == Reason.INTERNAL_ERROR.value
        self.reason = Reason.INTERNAL_ERROR if broken else Reason.UNSUPPORTED_ARGUMENT


class LiveLayers:
    """The layers of one adapter.

    Args:
        parameter: name of the parameter by which a layer's weights are known.
        look: what the layer of a quant method holds, or in words why no definition has it.
    """

    def __init__(
        self, runtime: Runtime, adapter: str, parameter: str, look: Callable[..., Held | str], original: Original
    ) -> None:
        self._runtime = runtime
        self._adapter = adapter
        self._parameter = parameter
        self._look = look
        self._original = original
        self._failed = False
        self._layers: dict[int, Known] = {}
        #: By the address of a weight: the quant method and its layer.
        self.owners: dict[int, tuple[Any, Any]] = {}

    def known(self, method: Any, layer: Any) -> Known | None:
        """The layer, if a solution may answer for it; None when the engine's op must, which is counted."""
        known = self._layers.get(id(layer))
        parameter = layer._parameters.get(self._parameter)
        if (
            known is None
            or known.parameter is not parameter
            or (parameter is not None and known.address != parameter.data_ptr())
        ):
            known = self.meet(method, layer)
        if known.site is None:
            if known.why:
                self._runtime.decline(self._adapter, known.reason)
            return None
        return known

    def fits(self, known: Known, x: Any) -> bool:
        """Whether activations are such as the layer's definition has; otherwise that is counted."""
        # Some layers are handed what a norm before them has quantized already.
        if isinstance(x, torch.Tensor) and x.dtype is known.dtype and x.shape[-1] == known.width:
            return True
        self._runtime.decline(self._adapter)
        return False

    def meet(self, method: Any, layer: Any) -> Known:
        """Cold: looks at a layer, the first time or after its weight was replaced."""
        old = self._layers.pop(id(layer), None)
        if old is not None:
            self.owners.pop(old.address, None)
        site, held, why = None, None, ""
        try:
            found = self._look(method, layer)
            if isinstance(found, str):
                why = found
                self._runtime.note(f"{self._adapter}: layers are left to the engine: {why}")
            elif self._runtime.tracing or self._runtime.wins(found.definition):
                held = found
                site = self._runtime.site(self._adapter, found.definition, original=self._original)
        except Exception:
            if self._runtime.settings.strict:
                raise
            why = Reason.INTERNAL_ERROR.value
            if not self._failed:  # a model has hundreds of layers that are alike
                logger.warning("could not look at the layers of %s; the engine answers", self._adapter, exc_info=True)
            self._failed = True
        known = Known(layer, layer._parameters.get(self._parameter), site, held, why)
        self._layers[id(layer)] = known
        if site is not None:
            self.owners[known.address] = method, layer
        return known
