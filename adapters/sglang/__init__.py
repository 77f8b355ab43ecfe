"""SGLang 0.5.11 and later, on CPU and CUDA: linear layers, norms, activation, rope, attention, experts, sampling."""

from fib_plugin.adapters.sglang.activation import Activation
from fib_plugin.adapters.sglang.attention import Attention
from fib_plugin.adapters.sglang.gemm import Gemm
from fib_plugin.adapters.sglang.gemm_fp8 import GemmFp8
from fib_plugin.adapters.sglang.metrics import Metrics
from fib_plugin.adapters.sglang.moe import Moe
from fib_plugin.adapters.sglang.moe_fp8 import MoeFp8
from fib_plugin.adapters.sglang.norm import Norm
from fib_plugin.adapters.sglang.rope import Rope
from fib_plugin.adapters.sglang.sampling import Sampling

from fib_plugin.adapter import Adapter

ADAPTERS: tuple[type[Adapter], ...] = (Gemm, GemmFp8, Norm, Activation, Rope, Attention, Moe, MoeFp8, Sampling, Metrics)
