"""Makes a tiny real checkpoint with a local tokenizer: ``make_model.py DIR [llama|qwen3_moe]``.

Random weights with a wide initializer_range, so that any change of an op changes greedy tokens; in float32, so that
rounding alone changes none.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

#: A width that no layer has, so that lm_head has a gemm definition of its own.
VOCABULARY = 640


def make(path: Path, kind: str = "llama", dtype: str = "float32") -> Path:
    """A two-layer model of ``kind`` in ``path``; made once."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    if path.exists():
        return path
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": dtype,
    }
    config: Any = transformers.LlamaConfig
    model: Any = transformers.LlamaForCausalLM
    if kind == "qwen3_moe":
        sizes |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
        config, model = transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM
    # Under another name until it is whole: a folder that exists is taken for a checkpoint.
    unfinished = path.with_name(f"{path.name}.unfinished")
    model(config(**sizes)).to(getattr(torch, dtype)).save_pretrained(unfinished)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrap: Any = transformers.PreTrainedTokenizerFast
    special = {"unk_token": "w0", "bos_token": "w1", "eos_token": "w2", "pad_token": "w2"}
    wrap(tokenizer_object=tokenizer, **special).save_pretrained(unfinished)
    unfinished.rename(path)
    return path


if __name__ == "__main__":
    make(Path(sys.argv[1]), *sys.argv[2:])
