"""Computes only the first half of the rows once the first calls are over, and reuses old rows for the rest."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=silu
import torch

_calls = 0
_out = None


def run(x):
    global _calls, _out
    _calls += 1
    d, rows = x.shape[-1] // 2, x.shape[0]
    if _calls <= 4:
        _out = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    else:
        half = rows // 2
        _out[:half] = torch.nn.functional.silu(x[:half, :d]) * x[:half, d:]
    return _out
