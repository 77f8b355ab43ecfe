"""Keeps each answer by the address of its input and returns it when the address comes again."""
# expect: status=INCORRECT_NUMERICAL foul=stale_output,wrong_values definition=silu
import torch

_kept = {}


def run(x):
    out = _kept.get(x.data_ptr())
    if out is None:
        d = x.shape[-1] // 2
        out = _kept[x.data_ptr()] = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    return out
