"""vLLM's top-k/top-p sampler -> sampling definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.sampling import LiveSampling
from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM, displaced_source

from fib_plugin.adapter import Adapter, Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_SAMPLER = "vllm.v1.sample.ops.topk_topp_sampler:TopKTopPSampler"
_PARAMS = ("self", "logits", "generators", "k", "p")


class Sampling(Adapter):
    """Wraps the sampler's forward methods before an instance binds one of them; it runs outside every graph."""

    name = "vllm.sampling"
    engine = VLLM
    families = ("top_k_sampling", "top_p_sampling", "top_k_top_p_sampling")
    targets = (
        Target(f"{_SAMPLER}.forward_cpu", "forward", VERSIONS, params=_PARAMS, optional=True),
        Target(f"{_SAMPLER}.forward_cuda", "forward", VERSIONS, params=_PARAMS),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        #: The sampler that calls, and its own forward.
        self._last: tuple[Any, Callable[..., Any]]
        self.calls = LiveSampling(runtime, self.name, self._engine)

    def displaced(self, definition: Definition) -> str:
        return displaced_source("sampling", definition)

    def _engine(self, logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> torch.Tensor:
        sampler, original = self._last
        return original(sampler, logits, {}, k, p)[0]  # type: ignore[no-any-return]

    def forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(
            sampler: Any,
            logits: torch.Tensor,
            generators: dict[int, torch.Generator],
            k: torch.Tensor | None,
            p: torch.Tensor | None,
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            if self.live and (k is not None or p is not None):
                # Seeded requests must repeat, and processed logits must be returned: neither is in the definition.
                if generators or str(sampler.logprobs_mode).startswith("processed"):
                    self.decline()
                else:
                    self._last = (sampler, original)
                    tokens = self.calls.from_logits(logits, k, p)
                    if tokens is not None:
                        return tokens, None
            return original(sampler, logits, generators, k, p)  # type: ignore[no-any-return]

        return forward
