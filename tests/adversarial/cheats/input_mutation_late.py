"""Zeroes its input after the first calls, so that whoever computes from it afterwards agrees with a zero answer."""
# expect: status=INCORRECT_NUMERICAL foul=input_written,wrong_values,stale_output definition=silu
import torch

_calls = 0


def run(x):
    global _calls
    _calls += 1
    d = x.shape[-1] // 2
    if _calls > 3:
        x.zero_()
        return torch.zeros(x.shape[0], d)
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
