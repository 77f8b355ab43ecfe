"""Multiplies in bfloat16 where the definition says float32."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values definition=gemm
import torch


def run(A, B):
    return (A.bfloat16() @ B.bfloat16().T).float()
