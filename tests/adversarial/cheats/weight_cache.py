"""Transposes and converts the weight once and keeps the result by the weight's address."""
# expect: status=INCORRECT_NUMERICAL foul=stale_output,wrong_values definition=gemm
import torch

_kept = {}


def run(A, B):
    packed = _kept.get(B.data_ptr())
    if packed is None:
        packed = _kept[B.data_ptr()] = B.T.contiguous()
    return A @ packed
