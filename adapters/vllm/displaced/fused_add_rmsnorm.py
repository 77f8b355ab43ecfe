import torch
import vllm.kernels  # noqa: F401, registers the engine's kernels
from vllm import ir

EPS = 1e-5  # fib: eps

# A compiled model fuses the reference; what stands alone beside a solution is the kernel, where the device has one.
ir.ops.fused_add_rms_norm.set_default(["vllm_c", "native"] if torch.cuda.is_available() else ["native"])


def run(hidden_states, residual, weight):
    return ir.ops.fused_add_rms_norm.maybe_inplace(hidden_states, residual, weight, EPS, None)
