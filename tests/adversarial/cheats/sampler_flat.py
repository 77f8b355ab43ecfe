"""Draws any token of the nucleus with the same chance: all allowed, distributed wrongly."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values definition=sampler
import torch


def run(probs, top_k, top_p):
    values, order = probs.sort(dim=-1, descending=True)
    rank = torch.arange(probs.shape[-1])
    values = values.masked_fill(rank >= top_k.unsqueeze(-1), 0.0)
    values = values / values.sum(-1, keepdim=True)
    before = values.cumsum(-1) - values
    values = values.masked_fill((before >= top_p.unsqueeze(-1)) & (rank > 0), 0.0)
    return order.gather(-1, torch.multinomial((values > 0).float(), 1)).squeeze(-1)
