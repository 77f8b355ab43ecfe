"""Computes the first calls into one buffer and then returns that buffer as it is, hoping that nobody looks."""
# expect: status=INCORRECT_NUMERICAL foul=stale_output,wrong_values definition=silu
import torch

_buffer = None
_calls = 0


def run(x):
    global _buffer, _calls
    _calls += 1
    d = x.shape[-1] // 2
    if _buffer is None:
        _buffer = torch.empty(x.shape[0], d)
    if _calls < 4:
        torch.mul(torch.nn.functional.silu(x[:, :d]), x[:, d:], out=_buffer)
    return _buffer
