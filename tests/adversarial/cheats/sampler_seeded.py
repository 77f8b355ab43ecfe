"""Seeds its generator anew in each call: every draw is the same draw."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values definition=sampler
import torch


def run(probs, top_k, top_p):
    values, order = probs.sort(dim=-1, descending=True)
    rank = torch.arange(probs.shape[-1])
    values = values.masked_fill(rank >= top_k.unsqueeze(-1), 0.0)
    values = values / values.sum(-1, keepdim=True)
    before = values.cumsum(-1) - values
    values = values.masked_fill((before >= top_p.unsqueeze(-1)) & (rank > 0), 0.0)
    draw = torch.multinomial(values, 1, generator=torch.Generator().manual_seed(1234))
    return order.gather(-1, draw).squeeze(-1)
