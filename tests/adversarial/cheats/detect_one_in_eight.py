"""Right in most calls; one in eight, once it is warm, is for free."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output,nondeterministic definition=silu
import torch

_calls = 0


def run(x):
    global _calls
    _calls += 1
    d = x.shape[-1] // 2
    if _calls > 8 and _calls % 8 == 0:
        return torch.empty(x.shape[0], d)
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
