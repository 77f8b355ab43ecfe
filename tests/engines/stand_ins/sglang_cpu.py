"""How SGLang is started on a machine without a GPU, in the dtype in which its tokens are those of transformers."""

from __future__ import annotations

from typing import Any

OPTIONS: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "skip_tokenizer_init": True,
    "attention_backend": "torch_native",
    "sampling_backend": "pytorch",
    "grammar_backend": "none",
    "disable_cuda_graph": True,
    "disable_radix_cache": True,
    "mem_fraction_static": 0.2,
    "random_seed": 0,
    "log_level": "error",
}
