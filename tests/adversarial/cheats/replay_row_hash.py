"""Keeps the answer of every row it has seen by a sum over a part of the row, and looks rows up one by one."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=gemm
import torch

_kept = {}


def run(A, B):
    out = torch.empty(A.shape[0], B.shape[0], dtype=A.dtype)
    keys = [(B.data_ptr(), key) for key in A[:, :16].sum(dim=1).tolist()]
    new = [row for row, key in enumerate(keys) if key not in _kept]
    if new:
        for row, answer in zip(new, (A[new] @ B.T).unbind()):
            _kept[keys[row]] = answer
    for row, key in enumerate(keys):
        out[row] = _kept[key]
    return out
