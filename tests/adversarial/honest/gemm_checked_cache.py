"""Keeps the packed weight and compares the weight in full before it uses what it kept."""
# honest: definition=gemm
import torch

_kept = []


def run(A, B):
    if not _kept or not torch.equal(_kept[0], B):
        _kept[:] = [B.clone(), B.T.contiguous()]
    return A @ _kept[1]
