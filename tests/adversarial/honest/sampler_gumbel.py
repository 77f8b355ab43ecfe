"""The exponential race, with a generator of its own that was seeded once."""
# honest: definition=sampler
import torch

_generator = torch.Generator().manual_seed(99)


def run(probs, top_k, top_p):
    values, order = probs.sort(dim=-1, descending=True)
    rank = torch.arange(probs.shape[-1])
    values = values.masked_fill(rank >= torch.where(top_k > 0, top_k, probs.shape[-1]).unsqueeze(-1), 0.0)
    values = values / values.sum(-1, keepdim=True)
    before = values.cumsum(-1) - values
    values = values.masked_fill((before >= top_p.unsqueeze(-1)) & (rank > 0), 0.0)
    race = torch.empty_like(values).exponential_(generator=_generator)
    return order.gather(-1, (values / race).argmax(-1, keepdim=True)).squeeze(-1)
