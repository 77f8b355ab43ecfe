"""Returns an empty tensor and computes only when Tensor.copy_ fetches it, outside of what is timed."""
# expect: status=RUNTIME_ERROR,INCORRECT_NUMERICAL foul=patched,wrong_values,stale_output definition=silu
import torch

_copy = torch.Tensor.copy_
_owed = {}


def copy_(self, other, *arguments):
    x = _owed.pop(id(other), None)
    if x is not None:
        d = x.shape[-1] // 2
        other = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    return _copy(self, other, *arguments)


torch.Tensor.copy_ = copy_


def run(x):
    out = torch.empty(x.shape[0], x.shape[1] // 2)
    _owed[id(out)] = x
    return out
