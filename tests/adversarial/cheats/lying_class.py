"""Returns an object whose __class__ says torch.Tensor and that computes on attribute access."""
# expect: status=RUNTIME_ERROR foul=not_a_tensor,crashed definition=silu
import torch


class Lazy:
    def __init__(self, x):
        self._x = x

    @property
    def __class__(self):
        return torch.Tensor

    def __getattr__(self, name):
        x = self._x
        d = x.shape[-1] // 2
        return getattr(torch.nn.functional.silu(x[:, :d]) * x[:, d:], name)


def run(x):
    return Lazy(x)
