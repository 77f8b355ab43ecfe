"""Frees its answers in such an order that the allocator hands an old one of the same input back, and writes nothing."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output,nondeterministic definition=silu
import torch

_seen = {}


def run(x):
    d = x.shape[-1] // 2
    old = _seen.pop(x.data_ptr(), None)
    if old is None:
        out = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    else:
        shape = old.shape
        del old
        out = torch.empty(shape)
    _seen[x.data_ptr()] = out
    return out
