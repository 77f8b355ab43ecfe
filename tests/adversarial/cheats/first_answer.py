"""Computes the first call and returns that answer for ever."""
# expect: status=INCORRECT_NUMERICAL foul=stale_output,wrong_values definition=silu
import torch

_answer = []


def run(x):
    if not _answer:
        d = x.shape[-1] // 2
        _answer.append(torch.nn.functional.silu(x[:, :d]) * x[:, d:])
    return _answer[0].clone()
