"""Leaves out every hundredth element, hoping for a tolerant share of matches."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values definition=silu
import torch


def run(x):
    d = x.shape[-1] // 2
    out = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    out.view(-1)[::100] = 0
    return out
