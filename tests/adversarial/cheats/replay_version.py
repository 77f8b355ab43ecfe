"""Keeps each answer by object, address and version counter, which do not see what others write to the memory."""
# expect: status=INCORRECT_NUMERICAL foul=stale_output,wrong_values definition=silu
import torch

_kept = {}


def _version(x):
    try:
        return x._version
    except RuntimeError:
        return 0


def run(x):
    key = (x.data_ptr(), _version(x), x.shape)
    if key not in _kept:
        d = x.shape[-1] // 2
        _kept[key] = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    return _kept[key]
