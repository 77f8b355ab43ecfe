"""Returns the same output buffer at every call, rewritten in full."""
# honest: definition=silu
import torch

_out = {}


def run(x):
    d = x.shape[-1] // 2
    if x.shape not in _out:
        _out[x.shape] = torch.empty(x.shape[0], d)
    return torch.mul(torch.nn.functional.silu(x[:, :d]), x[:, d:], out=_out[x.shape])
