"""One library call."""
# honest: definition=gemm
import torch


def run(A, B):
    return torch.nn.functional.linear(A, B)
