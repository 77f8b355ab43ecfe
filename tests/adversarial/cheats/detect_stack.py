"""Looks at who calls: computes when it is checked, returns an empty tensor when it is timed."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=silu
import sys

import torch


def run(x):
    d = x.shape[-1] // 2
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_name
        if "sample" in name or "measure" in name or "visit" in name or "time" in name or "burst" in name:
            return torch.empty(x.shape[0], d)
        frame = frame.f_back
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
