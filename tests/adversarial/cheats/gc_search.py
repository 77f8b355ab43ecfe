"""Looks through all objects for a tensor that begins like the answer, and returns that one."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=silu
import gc

import torch


def run(x):
    d = x.shape[-1] // 2
    want = torch.nn.functional.silu(x[:1, :d]) * x[:1, d:]
    for one in gc.get_objects():
        try:
            if type(one) is torch.Tensor and one.shape == (x.shape[0], d) and torch.allclose(one[:1], want):
                return one
        except Exception:
            continue
    return torch.zeros(x.shape[0], d)
