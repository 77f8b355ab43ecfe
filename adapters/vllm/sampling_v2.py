"""The sampler of vLLM's second model runner -> sampling definitions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.sampling import LiveSampling
from fib_plugin.adapters.vllm.engine import VLLM, displaced_source

from fib_plugin.adapter import Adapter, Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition


class SamplingV2(Adapter):
    """Wraps the part of ``Sampler.sample`` that comes after penalties, temperature and min-p.

    The engine says itself whether a call is free for a fused sampler: filtered, nobody greedy, no seed, no processed
    logits to return. Those are the calls that a definition expresses. Earlier versions keep the filters and the draw
    apart, with seeds in the draw; they are not wrapped.
    """

    name = "vllm.sampling_v2"
    engine = VLLM
    families = ("top_k_sampling", "top_p_sampling", "top_k_top_p_sampling")
    targets = (
        Target(
            "vllm.v1.worker.gpu.sample.sampler:Sampler._sample_random",
            "sample_random",
            ">=0.30,<0.34",
            # What comes before the last parameter differs from version to version; see sample_random.
            optional=True,
        ),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._last: Callable[..., Any]
        self.calls = LiveSampling(runtime, self.name, lambda logits, k, p: self._last(logits, k, p))

    def displaced(self, definition: Definition) -> str:
        return displaced_source("sampling", definition)

    def sample_random(self, original: Callable[..., Any]) -> Callable[..., Any]:
        free = list(inspect.signature(original).parameters)[-1:]
        known = free in (["use_fused_sampler"], ["use_flashinfer"])
        if not known:
            self.runtime.note(f"{self.name}: the sampler does not say any more which calls are free; none is taken")

        def _sample_random(
            sampler: Any,
            processed_logits: torch.Tensor,
            expanded_idx_mapping: torch.Tensor,
            idx_mapping_np: Any,
            pos: torch.Tensor,
            top_k: torch.Tensor | None,
            top_p: torch.Tensor | None,
            *rest: Any,
            **named: Any,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            where = (expanded_idx_mapping, idx_mapping_np, pos)
            if self.live and (top_k is not None or top_p is not None):
                last = named.get(free[0]) if free and free[0] in named else rest[-1] if rest else False
                if not known or last is not True:
                    self.decline()
                else:

                    def engine(logits: torch.Tensor, k: Any, p: Any) -> torch.Tensor:
                        return original(sampler, logits, *where, k, p, *rest, **named)[0]  # type: ignore[no-any-return]

                    self._last = engine
                    sampled = self.calls.from_logits(processed_logits, top_k, top_p)
                    if sampled is not None:
                        return sampled, processed_logits
            return original(  # type: ignore[no-any-return]
                sampler, processed_logits, *where, top_k, top_p, *rest, **named
            )

        return _sample_random
