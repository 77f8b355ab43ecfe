"""Owes the answers of eight calls and computes them all at once in the eighth, into the tensors it gave away."""
# expect: status=INCORRECT_NUMERICAL,RUNTIME_ERROR foul=wrong_values,stale_output,late_work definition=silu
import torch

_owed = []
_calls = 0


def run(x):
    global _calls
    _calls += 1
    d = x.shape[-1] // 2
    if _calls <= 3:
        return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    out = torch.empty(x.shape[0], d)
    _owed.append((x, out))
    if len(_owed) == 8:
        both = torch.cat([one for one, _ in _owed])
        done = torch.nn.functional.silu(both[:, :d]) * both[:, d:]
        for (_, place), part in zip(_owed, done.split(x.shape[0])):
            place.copy_(part)
        _owed.clear()
    return out
