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
    """Wraps the sampler's forward methods before an instance binds one of them; it runs outside every graph.

    Which one an instance binds depends on the device and on VLLM_USE_FLASHINFER_SAMPLER; ``forward_cuda`` also calls
    ``forward_native`` for what its kernels lack.
    """

    name = "vllm.sampling"
    engine = VLLM
    families = ("top_k_sampling", "top_p_sampling", "top_k_top_p_sampling")
    targets = (
        Target(f"{_SAMPLER}.forward_cpu", "forward", VERSIONS, params=_PARAMS),
        Target(f"{_SAMPLER}.forward_cuda", "forward", VERSIONS, params=_PARAMS),
        Target(f"{_SAMPLER}.forward_native", "forward", VERSIONS, params=_PARAMS),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        #: The sampler that calls, and its own forward.
        self._last: tuple[Any, Callable[..., Any]]
        #: Whether one of the engine's methods runs, which may call another.
        self._within = False
        self.calls = LiveSampling(runtime, self.name, self._engine)

    def displaced(self, definition: Definition) -> str:
        return displaced_source("sampling", definition)

    def _engine(self, logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> torch.Tensor:
        sampler, original = self._last
        return self._run(original, sampler, logits, {}, k, p)[0]

    def _run(self, original: Callable[..., Any], *args: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        outer, self._within = self._within, True
        try:
            return original(*args)  # type: ignore[no-any-return]
        finally:
            self._within = outer

    def forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(
            sampler: Any,
            logits: torch.Tensor,
            generators: dict[int, torch.Generator],
            k: torch.Tensor | None,
            p: torch.Tensor | None,
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            if self.live and not self._within and (k is not None or p is not None):
                if generators or _unsupported(sampler):
                    self.decline()
                else:
                    self._last = (sampler, original)
                    tokens = self.calls.from_logits(logits, k, p)
                    if tokens is not None:
                        return tokens, None
            return self._run(original, sampler, logits, generators, k, p)

        return forward


def _unsupported(sampler: Any) -> bool:
    """Whether the call has what the definition lacks: processed logits to return, or noise in float64 (since 0.24).

    Seeded requests must repeat, which it lacks, too.
    """
    return str(sampler.logprobs_mode).startswith("processed") or getattr(sampler, "use_fp64_gumbel", False)
