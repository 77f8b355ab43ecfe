"""vLLM 0.22 and later, on CPU and CUDA: linear layers, norms, activation, rope, attention, experts, sampling."""

from fib_plugin.adapters.vllm.activation import Activation
from fib_plugin.adapters.vllm.attention import CpuAttention
from fib_plugin.adapters.vllm.compile_cache import CompileCache
from fib_plugin.adapters.vllm.gemm import Gemm
from fib_plugin.adapters.vllm.gemm_fp8 import GemmFp8
from fib_plugin.adapters.vllm.metrics import Metrics
from fib_plugin.adapters.vllm.mla import Mla
from fib_plugin.adapters.vllm.moe import Moe
from fib_plugin.adapters.vllm.moe_fp8 import MoeFp8
from fib_plugin.adapters.vllm.norm import Norm
from fib_plugin.adapters.vllm.paged_attention import FlashAttention, FlashInferAttention, TritonAttention
from fib_plugin.adapters.vllm.rope import Rope
from fib_plugin.adapters.vllm.sampling import Sampling
from fib_plugin.adapters.vllm.sampling_v2 import SamplingV2

from fib_plugin.adapter import Adapter

ADAPTERS: tuple[type[Adapter], ...] = (
    Gemm,
    GemmFp8,
    Norm,
    Activation,
    Rope,
    CpuAttention,
    FlashAttention,
    TritonAttention,
    FlashInferAttention,
    Mla,
    Moe,
    MoeFp8,
    Sampling,
    SamplingV2,
    CompileCache,
    Metrics,
)
