import inspect

import torch
from vllm import _custom_ops  # noqa: F401, loads the engine's kernels
from vllm.model_executor.layers.activation import SiluAndMul

native = inspect.unwrap(SiluAndMul.forward_native)


def run(x):
    if not x.is_cuda:
        return native(x)
    out = x.new_empty((*x.shape[:-1], x.shape[-1] // 2))
    torch.ops._C.silu_and_mul(out, x)
    return out
