"""HOT. Sampling calls: one site for each vocabulary and filter, keyed by the number of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fib_plugin import ops
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime

_FAMILIES = {(True, False): "top_k_sampling", (False, True): "top_p_sampling", (True, True): "top_k_top_p_sampling"}


class LiveSampling:
    """Sampling calls of one adapter.

    Args:
        engine: the engine's op on (logits or probs, k, p), for probation; it may overwrite the first.
    """

    def __init__(self, runtime: Runtime, adapter: str, engine: Callable[..., torch.Tensor] | None = None) -> None:
        self._runtime = runtime
        self._original = None if engine is None else Original(engine, _copied)
        self._adapter = adapter
        self._sites: dict[tuple[int, bool, bool], Site] = {}

    def from_logits(self, logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> torch.Tensor | None:
        """Token ids [batch_size] int64 for logits [batch_size, vocab_size], or None for the engine's op.

        At least one of k (tokens kept) and p (mass kept), both [batch_size], must be given.
        """
        site = self._site(logits.shape[-1], k, p)
        result: torch.Tensor | None = site.attempt_made(logits.shape[0], _inputs, logits, k, p)
        return result

    def from_probs(self, probs: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> torch.Tensor | None:
        """Token ids [batch_size] int64 for probs [batch_size, vocab_size] float32, or None for the engine's op.

        A token that passes k and p passes both on the probabilities as they are (definitions renormalise after k).
        """
        site = self._site(probs.shape[-1], k, p)
        result: torch.Tensor | None = site.attempt_made(probs.shape[0], _joint, probs, k, p)
        return result

    def _site(self, vocab_size: int, k: torch.Tensor | None, p: torch.Tensor | None) -> Site:
        key = (vocab_size, k is not None, p is not None)
        site = self._sites.get(key)
        if site is None:
            definition = ops.ALL[_FAMILIES[key[1:]]].definition(vocab_size=vocab_size)
            site = self._sites[key] = self._runtime.site(self._adapter, definition, original=self._original)
        return site


def _copied(logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    return logits.clone(), k, p


def _inputs(logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    probs = logits.softmax(dim=-1, dtype=torch.float32)
    filters = []
    if k is not None:
        filters.append(k.to(torch.int32))
    if p is not None:
        filters.append(p.to(torch.float32))
    return (probs, *filters)


def _joint(probs: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    filters = []
    if k is not None:
        # Engines mark "all tokens" by a number of their own.
        k = k.to(torch.int32).clamp(max=probs.shape[-1])
        filters.append(k)
    if p is not None:
        p = p.to(torch.float32)
        filters.append(p if k is None else p / top_mass(probs, k))
    return (probs, *filters)


def top_mass(probs: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """[batch_size]: how much of the probability the k most likely tokens of each row have."""
    ordered = probs.sort(dim=-1, descending=True).values
    return ordered.cumsum(dim=-1).gather(-1, k.long().unsqueeze(-1) - 1).squeeze(-1)
