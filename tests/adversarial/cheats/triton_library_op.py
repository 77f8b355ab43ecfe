"""Says triton and calls the library's matrix product."""
# expect: status=RUNTIME_ERROR foul=library_call,no_kernel definition=gemm language=triton
import torch
import triton  # noqa: F401


def run(A, B):
    return torch.matmul(A, B.T)
