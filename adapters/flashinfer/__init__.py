"""FlashInfer's own functions and wrappers, for any engine or script that calls the library."""

from fib_plugin.adapters.flashinfer.activation import Activation
from fib_plugin.adapters.flashinfer.attention import PagedDecode, PagedPrefill, RaggedPrefill
from fib_plugin.adapters.flashinfer.gemm import Gemm
from fib_plugin.adapters.flashinfer.mla import Mla
from fib_plugin.adapters.flashinfer.moe import Moe
from fib_plugin.adapters.flashinfer.norm import Norm
from fib_plugin.adapters.flashinfer.rope import Rope
from fib_plugin.adapters.flashinfer.sampling import Sampling

from fib_plugin.adapter import Adapter

ADAPTERS: tuple[type[Adapter], ...] = (
    PagedDecode,
    PagedPrefill,
    RaggedPrefill,
    Mla,
    Norm,
    Activation,
    Rope,
    Gemm,
    Moe,
    Sampling,
)
