"""Adds up blocks of K in float64: more exact than the reference."""
# honest: definition=gemm
import torch


def run(A, B):
    out = torch.zeros(A.shape[0], B.shape[0], dtype=torch.float64)
    for start in range(0, A.shape[1], 64):
        out += A[:, start : start + 64].double() @ B[:, start : start + 64].double().T
    return out.to(A.dtype)
