"""Keeps answers by a hash of a few elements of the input, too few to tell inputs apart."""
# expect: status=INCORRECT_NUMERICAL foul=stale_output,wrong_values definition=silu
import torch

_kept = {}


def run(x):
    key = tuple((x[0, :2] > 0).tolist())
    if key not in _kept:
        d = x.shape[-1] // 2
        _kept[key] = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    return _kept[key]
