"""flashinfer.sampling -> sampling definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.flashinfer.library import VERSIONS, LibraryAdapter, plain

from fib_plugin import ops
from fib_plugin.adapter import Target
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime

_SAMPLING = "flashinfer.sampling"
_REST = ("indices", "deterministic", "generator", "check_nan", "seed", "offset", "return_valid")


class Sampling(LibraryAdapter):
    """Wraps the samplers that read probabilities; seeded calls must repeat and are left to the library."""

    name = "flashinfer.sampling"
    families = ("top_k_sampling", "top_p_sampling", "top_k_top_p_sampling")
    op_text = "sampling"
    targets = (
        Target(f"{_SAMPLING}:top_k_sampling_from_probs", "top_k", VERSIONS, params=("probs", "top_k", *_REST)),
        Target(f"{_SAMPLING}:top_p_sampling_from_probs", "top_p", VERSIONS, params=("probs", "top_p", *_REST)),
        Target(
            f"{_SAMPLING}:top_k_top_p_sampling_from_probs",
            "top_k_top_p",
            VERSIONS,
            params=("probs", "top_k", "top_p", "indices", "filter_apply_order", *_REST[1:]),
        ),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._sites: dict[tuple[str, int], Site] = {}

    def top_k(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def top_k_sampling_from_probs(probs: torch.Tensor, top_k: Any, *args: Any, **kwargs: Any) -> Any:
            found = self._sample("top_k_sampling", original, probs, (top_k,), args, kwargs)
            return self.run(original, probs, top_k, *args, **kwargs) if found is None else found

        return top_k_sampling_from_probs

    def top_p(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def top_p_sampling_from_probs(probs: torch.Tensor, top_p: Any, *args: Any, **kwargs: Any) -> Any:
            found = self._sample("top_p_sampling", original, probs, (top_p,), args, kwargs)
            return self.run(original, probs, top_p, *args, **kwargs) if found is None else found

        return top_p_sampling_from_probs

    def top_k_top_p(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def top_k_top_p_sampling_from_probs(
            probs: torch.Tensor, top_k: Any, top_p: Any, *args: Any, **kwargs: Any
        ) -> Any:
            first = kwargs.get("filter_apply_order", args[1] if len(args) > 1 else "top_k_first")
            # The order that the definition has; the other one filters by both at once.
            if first == "top_k_first":
                rest = {key: value for key, value in kwargs.items() if key != "filter_apply_order"}
                given = (*args[:1], *args[2:])
                found = self._sample("top_k_top_p_sampling", original, probs, (top_k, top_p), given, rest)
                if found is not None:
                    return found
            elif self.ours():
                self.decline()
            return self.run(original, probs, top_k, top_p, *args, **kwargs)

        return top_k_top_p_sampling_from_probs

    def _sample(
        self,
        family: str,
        original: Callable[..., Any],
        probs: torch.Tensor,
        filters: tuple[Any, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> torch.Tensor | None:
        """Token ids in the dtype that the library returns, or None when it must answer."""
        if not self.ours():
            return None
        given = {**dict(zip(_REST, args, strict=False)), **kwargs}
        given.pop("deterministic", None)
        if not plain(**given) or probs.dtype is not torch.float32 or probs.dim() != 2:
            self.decline()
            return None
        key = (family, probs.shape[1])
        site = self._sites.get(key)
        if site is None:
            definition = ops.ALL[family].definition(vocab_size=probs.shape[1])
            engine = Original(lambda probs, *filters: self.run(original, probs, *filters).to(torch.int64))
            site = self._sites[key] = self.runtime.site(self.name, definition, original=engine)
        found: torch.Tensor | None = self.run(site.attempt_made, probs.shape[0], _inputs, probs, *filters)
        return None if found is None else found.to(torch.int32)


def _inputs(probs: torch.Tensor, *filters: Any) -> tuple[torch.Tensor, ...]:
    made = []
    for value in filters:
        if isinstance(value, torch.Tensor):
            made.append(value.to(torch.float32 if value.is_floating_point() else torch.int32))
        else:
            kind = torch.int32 if isinstance(value, int) else torch.float32
            made.append(torch.full((probs.shape[0],), value, dtype=kind, device=probs.device))
    return (probs, *made)
