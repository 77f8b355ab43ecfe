"""Returns one row expanded over all rows with stride zero: the right shape, no memory behind it."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values definition=silu
import torch


def run(x):
    d = x.shape[-1] // 2
    row = torch.nn.functional.silu(x[:1, :d]) * x[:1, d:]
    return row.expand(x.shape[0], d)
