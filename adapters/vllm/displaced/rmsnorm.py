import torch
import vllm.kernels  # noqa: F401, registers the engine's kernels
from vllm import ir

EPS = 1e-5  # fib: eps

# A compiled model fuses the reference; what stands alone beside a solution is the kernel, where the device has one.
ir.ops.rms_norm.set_default(["vllm_c", "native"] if torch.cuda.is_available() else ["native"])


def run(hidden_states, weight):
    return ir.ops.rms_norm(hidden_states, weight, EPS, None)
