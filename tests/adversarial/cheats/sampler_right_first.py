"""A right sampler in its first calls, a greedy one after."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=sampler
import torch

_calls = 0


def run(probs, top_k, top_p):
    global _calls
    _calls += 1
    if _calls > 5:
        return probs.argmax(-1)
    values, order = probs.sort(dim=-1, descending=True)
    rank = torch.arange(probs.shape[-1])
    values = values.masked_fill(rank >= top_k.unsqueeze(-1), 0.0)
    values = values / values.sum(-1, keepdim=True)
    before = values.cumsum(-1) - values
    values = values.masked_fill((before >= top_p.unsqueeze(-1)) & (rank > 0), 0.0)
    return order.gather(-1, torch.multinomial(values, 1)).squeeze(-1)
