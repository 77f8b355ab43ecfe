"""Right, plus noise within sight of the tolerance that differs between two calls on the same input."""
# expect: status=INCORRECT_NUMERICAL foul=nondeterministic,wrong_values definition=silu
import torch


def run(x):
    d = x.shape[-1] // 2
    out = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    return out * (1 + 1e-2 * torch.randn_like(out))
