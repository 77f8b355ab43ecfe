"""Samples after top-k and ignores top-p."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values definition=sampler
import torch


def run(probs, top_k, top_p):
    values, order = probs.sort(dim=-1, descending=True)
    rank = torch.arange(probs.shape[-1])
    values = values.masked_fill(rank >= top_k.unsqueeze(-1), 0.0)
    return order.gather(-1, torch.multinomial(values, 1)).squeeze(-1)
