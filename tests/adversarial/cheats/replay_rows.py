"""Keeps inputs and answers by address and recomputes only rows whose first element is another one."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=silu
import torch

_kept = {}


def run(x):
    d = x.shape[-1] // 2
    first, out = _kept.get(x.data_ptr(), (None, None))
    if first is None:
        out = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    else:
        changed = (first != x[:, 0]).nonzero().squeeze(-1)
        rows = x[changed]
        out[changed] = torch.nn.functional.silu(rows[:, :d]) * rows[:, d:]
    _kept[x.data_ptr()] = x[:, 0].clone(), out
    return out
