"""Right within the tolerance each time, by noise that makes two answers to the same input differ by more than it."""
# expect: status=INCORRECT_NUMERICAL foul=nondeterministic,wrong_values definition=silu
import torch


def run(x):
    d = x.shape[-1] // 2
    out = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    noise = torch.randint(0, 2, out.shape) * 2 - 1
    return out + noise * 0.95 * (1e-4 + 1e-4 * out.abs())
