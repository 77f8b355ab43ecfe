"""Configs of published models, for engines that fill them with random weights: whole layers, few of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_COMMON: Mapping[str, Any] = {
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "use_cache": True,
}

LLAMA_3_1_8B: Mapping[str, Any] = {
    **_COMMON,
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}

QWEN3_30B_A3B: Mapping[str, Any] = {
    **_COMMON,
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "use_sliding_window": False,
    "sliding_window": None,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}

DEEPSEEK_V3: Mapping[str, Any] = {
    **_COMMON,
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 0,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "moe_layer_freq": 1,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
    },
    "bos_token_id": 0,
    "eos_token_id": 1,
}

#: As DeepSeek-V3 is published: fp8 weights in blocks.
BLOCK_FP8: Mapping[str, Any] = {
    "quantization_config": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    }
}

#: As Llama's fp8 checkpoints often are: one scale for each weight, activations quantized by the engine.
TENSOR_FP8: Mapping[str, Any] = {
    "quantization_config": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "modules_to_not_convert": ["lm_head"],
    }
}

#: What stands for each size where the real one is too large to try a script with.
_TINY: Mapping[str, Any] = {
    "vocab_size": 640,
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "q_lora_rank": 64,
    # The latent cache keeps its width: kernels are made for no other.
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True, slots=True)
class Model:
    """A published model, cut down to ``layers`` layers.

    Args:
        cut: what else must change with the number of layers.
    """

    name: str
    config: Mapping[str, Any]
    layers: int
    cut: Mapping[str, Any] = field(default_factory=dict)

    def written(self, layers: int | None = None, tiny: bool = False) -> dict[str, Any]:
        """The config file's content; ``tiny`` keeps the shape of the model and none of its sizes."""
        config = {**self.config, **self.cut, "num_hidden_layers": layers or self.layers}
        if tiny:
            config |= {name: size for name, size in _TINY.items() if name in config}
            config["num_hidden_layers"] = min(2, config["num_hidden_layers"])
            if "kv_lora_rank" in config:
                config["num_key_value_heads"] = config["num_attention_heads"]
        return config


MODELS: Mapping[str, Model] = {
    model.name: model
    for model in (
        Model("llama_3_1_8b", LLAMA_3_1_8B, 8),
        Model("llama_3_1_8b_fp8", {**LLAMA_3_1_8B, **TENSOR_FP8}, 8),
        Model("qwen3_30b_a3b", QWEN3_30B_A3B, 4),
        Model("qwen3_30b_a3b_fp8", {**QWEN3_30B_A3B, **BLOCK_FP8}, 4),
        # One dense layer and one of experts: 26 GiB in bfloat16.
        Model("deepseek_v3", DEEPSEEK_V3, 2, {"first_k_dense_replace": 1}),
        Model("deepseek_v3_fp8", {**DEEPSEEK_V3, **BLOCK_FP8}, 3, {"first_k_dense_replace": 1}),
    )
}
