"""Folds the norm's weight into a table kept by shape alone: any weight of that length is taken for the first one."""
# expect: status=INCORRECT_NUMERICAL foul=stale_output,wrong_values definition=norm
import functools

import torch

_first = {}


def run(x, weight):
    kept = _first.setdefault(weight.shape, weight.clone())
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), kept, 1e-5)
