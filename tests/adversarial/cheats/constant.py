"""Returns the same constant whatever comes in."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values definition=norm
import torch

_out = None


def run(x, weight):
    global _out
    if _out is None:
        _out = torch.zeros_like(x)
    return _out
