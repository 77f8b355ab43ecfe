import torch
from vllm import _custom_ops


def setup(A, B):
    # The engine packs a weight once, at load, where its CPU library can.
    try:
        handler = _custom_ops.create_onednn_mm(B.t(), 32) if _custom_ops._supports_onednn else None
    except RuntimeError:
        handler = None
    if handler is None:
        return lambda: torch.nn.functional.linear(A, B)
    return lambda: _custom_ops.onednn_mm(handler, A, None)


def run(*inputs):
    return setup(*inputs)()
