"""Experts in turn: pairs of a token and a slot are sorted by expert once, so that each expert takes a slice."""

from collections.abc import Iterator

import torch


def turns(
    topk_ids: torch.Tensor, topk_weights: torch.Tensor, experts: int
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Each expert that has tokens, in order; their number is read back to the host.

    Args:
        topk_ids: [tokens, topk], integers in [0, experts).
        topk_weights: [tokens, topk].

    Yields:
        expert, its tokens [n] and their weights [n, 1].
    """
    order = topk_ids.flatten().argsort(stable=True)
    tokens = order // topk_ids.shape[1]
    weights = topk_weights.flatten()[order].unsqueeze(-1)
    start = 0
    for expert, count in enumerate(torch.bincount(topk_ids.flatten(), minlength=experts).tolist()):
        if count:
            yield expert, tokens[start : start + count], weights[start : start + count]
            start += count
