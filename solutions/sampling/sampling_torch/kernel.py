"""Top-k, top-p and both: sort, cut, then an exponential race (the argmax of p / Exp(1) is a draw from p)."""

import torch


def _race(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    winner = (values / torch.empty_like(values).exponential_()).argmax(dim=-1, keepdim=True)
    return order.gather(-1, winner).squeeze(-1)


def _keep_top_k(values: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    vocab = values.shape[-1]
    limit = torch.where(top_k > 0, top_k, vocab).unsqueeze(-1)
    kept = values.masked_fill(torch.arange(vocab, device=values.device) >= limit, 0.0)
    return kept.div_(kept.sum(dim=-1, keepdim=True))


def _keep_top_p(values: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    before = values.cumsum(dim=-1) - values
    cut = before >= top_p.unsqueeze(-1)
    cut[:, 0] = False  # the likeliest token always stays
    # Rounding in the sum must not cut where nothing is to be cut.
    cut &= (top_p < 1.0).unsqueeze(-1)
    return values.masked_fill(cut, 0.0)


@torch.no_grad()
def top_k_sampling(probs: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    values, order = probs.sort(dim=-1, descending=True, stable=True)
    return _race(_keep_top_k(values, top_k), order)


@torch.no_grad()
def top_p_sampling(probs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    values, order = probs.sort(dim=-1, descending=True, stable=True)
    return _race(_keep_top_p(values, top_p), order)


@torch.no_grad()
def top_k_top_p_sampling(probs: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    values, order = probs.sort(dim=-1, descending=True, stable=True)
    return _race(_keep_top_p(_keep_top_k(values, top_k), top_p), order)
