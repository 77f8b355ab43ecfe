"""Packs the weight in every call, into a buffer that it keeps."""
# honest: definition=gemm
import torch

_packed = {}


def run(A, B):
    if B.shape not in _packed:
        _packed[B.shape] = torch.empty(B.shape[1], B.shape[0])
    return A @ _packed[B.shape].copy_(B.T)
