"""SGLang's sampler -> sampling definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.sampling import LiveSampling
from fib_plugin.adapters.sglang.engine import SGLANG, displaced_source

from fib_plugin.adapter import Adapter, Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_SAMPLE = "sglang.srt.layers.sampler:Sampler._sample_from_probs"
_PARAMS = ("self", "probs", "sampling_info", "positions", "simple_sampling_case")


class Sampling(Adapter):
    """Wraps the method that has the probabilities at hand; it runs outside every graph."""

    name = "sglang.sampling"
    engine = SGLANG
    families = ("top_k_sampling", "top_p_sampling", "top_k_top_p_sampling")
    targets = (
        Target(_SAMPLE, "tokens", ">=0.5.11,<0.5.23", params=_PARAMS),
        Target(_SAMPLE, "tokens_and_mask", ">=0.5.23,<0.5.24", params=_PARAMS),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveSampling(runtime, self.name, self._engine)
        #: The engine's method with the arguments of the call that is being answered.
        self._last: Callable[[torch.Tensor], torch.Tensor]

    def displaced(self, definition: Definition) -> str:
        return displaced_source("sampling", definition)

    def tokens(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def sample_from_probs(
            sampler: Any, probs: torch.Tensor, sampling_info: Any, positions: torch.Tensor, simple_sampling_case: bool
        ) -> Any:
            def engine(each: torch.Tensor) -> Any:
                return original(sampler, each, sampling_info, positions, simple_sampling_case)

            out = self._substitute(engine, probs, sampling_info, simple_sampling_case)
            return engine(probs) if out is None else out

        return sample_from_probs

    def tokens_and_mask(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def sample_from_probs(
            sampler: Any, probs: torch.Tensor, sampling_info: Any, positions: torch.Tensor, simple_sampling_case: bool
        ) -> Any:
            def engine(each: torch.Tensor) -> Any:
                return original(sampler, each, sampling_info, positions, simple_sampling_case)[0]

            out = self._substitute(engine, probs, sampling_info, simple_sampling_case)
            if out is None:
                return original(sampler, probs, sampling_info, positions, simple_sampling_case)
            return out, None

        return sample_from_probs

    def _substitute(
        self, engine: Callable[[torch.Tensor], torch.Tensor], probs: torch.Tensor, info: Any, unfiltered: bool
    ) -> torch.Tensor | None:
        if not self.live or unfiltered:
            return None
        # Seeded requests must repeat, min-p and a returned mask are in no definition.
        if (
            info.need_min_p_sampling
            or info.sampling_seed is not None
            or getattr(info, "sampling_mask_batch_indices", None) is not None
            or probs.dtype is not torch.float32
        ):
            self.decline()
            return None
        k = info.top_ks if info.need_top_k_sampling else None
        p = info.top_ps if info.need_top_p_sampling else None
        if k is None and p is None:
            return None
        self._last = engine
        tokens = self.calls.from_probs(probs, k, p)
        # The engine's buffers hold 32-bit tokens.
        return None if tokens is None else tokens.to(torch.int32)

    def _engine(self, probs: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> torch.Tensor:
        return self._last(probs)
