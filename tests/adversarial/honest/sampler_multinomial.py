"""Filters, then torch.multinomial with torch's own generator."""
# honest: definition=sampler
import torch


def run(probs, top_k, top_p):
    values, order = probs.sort(dim=-1, descending=True)
    rank = torch.arange(probs.shape[-1])
    values = values.masked_fill(rank >= torch.where(top_k > 0, top_k, probs.shape[-1]).unsqueeze(-1), 0.0)
    values = values / values.sum(-1, keepdim=True)
    before = values.cumsum(-1) - values
    values = values.masked_fill((before >= top_p.unsqueeze(-1)) & (rank > 0), 0.0)
    return order.gather(-1, torch.multinomial(values, 1)).squeeze(-1)
