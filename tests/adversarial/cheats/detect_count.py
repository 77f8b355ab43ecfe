"""Right in its first eight calls, nothing after."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=silu
import torch

_calls = 0


def run(x):
    global _calls
    _calls += 1
    d = x.shape[-1] // 2
    if _calls > 8:
        return torch.empty(x.shape[0], d)
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
