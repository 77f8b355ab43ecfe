"""Samples rightly whenever the same probabilities come again (so it is being tested), greedily otherwise."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=sampler
import torch

_last = None
_calls = 0


def run(probs, top_k, top_p):
    global _last, _calls
    _calls += 1
    again = _last == float(probs[0, 0])
    _last = float(probs[0, 0])
    if not again and _calls > 4:
        return torch.zeros(probs.shape[0], dtype=torch.int64)
    values, order = probs.sort(dim=-1, descending=True)
    rank = torch.arange(probs.shape[-1])
    values = values.masked_fill(rank >= top_k.unsqueeze(-1), 0.0)
    values = values / values.sum(-1, keepdim=True)
    before = values.cumsum(-1) - values
    values = values.masked_fill((before >= top_p.unsqueeze(-1)) & (rank > 0), 0.0)
    return order.gather(-1, torch.multinomial(values, 1)).squeeze(-1)
