"""Makes a real checkpoint with a local tokenizer, tiny unless asked: ``make_model.py DIR [KIND] [--help]``.

Random weights with a wide initializer_range, so that any change of an op changes greedy tokens; in float32, so that
rounding alone changes none.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

#: Models, in the format of ``dtype`` or with linear layers in fp8 (fp8_checkpoint.py), by tensors or by blocks of 128.
KINDS = ("llama", "qwen3_moe", "llama_fp8", "llama_fp8_block", "qwen3_moe_fp8_block")
#: A width that no layer has, so that lm_head has a gemm definition of its own.
VOCABULARY = 640


def make(
    path: Path,
    kind: str = "llama",
    dtype: str = "float32",
    *,
    hidden: int = 128,
    intermediate: int = 256,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    dense: int = 0,
) -> Path:
    """A model of ``kind`` (one of KINDS) in ``path``, of two narrow layers unless asked; made once.

    Args:
        dense: layers of a mixture of experts that have none.
    """
    import torch
    import transformers
    from fp8_checkpoint import quantize
    from tokenizers import Tokenizer, models, pre_tokenizers

    if path.exists():
        return path
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": 512,
        # Sums over more weights stay as large as those of the narrow model.
        "initializer_range": 0.3 * (128 / hidden) ** 0.5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": dtype,
    }
    config: Any = transformers.LlamaConfig
    model: Any = transformers.LlamaForCausalLM
    kind, separator, blocks = kind.partition("_fp8")
    if kind == "qwen3_moe":
        sizes |= {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": intermediate // 4,
            "norm_topk_prob": True,
            "mlp_only_layers": list(range(dense)),
        }
        config, model = transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM
    # Under another name until it is whole: a folder that exists is taken for a checkpoint.
    unfinished = path.with_name(f"{path.name}.unfinished")
    model(config(**sizes)).to(getattr(torch, dtype)).save_pretrained(unfinished)
    if separator:
        quantize(unfinished, "block" if blocks else "tensor")
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrap: Any = transformers.PreTrainedTokenizerFast
    special = {"unk_token": "w0", "bos_token": "w1", "eos_token": "w2", "pad_token": "w2"}
    wrap(tokenizer_object=tokenizer, **special).save_pretrained(unfinished)
    unfinished.rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, metavar="DIR")
    parser.add_argument("kind", nargs="?", default="llama", choices=KINDS)
    parser.add_argument("dtype", nargs="?", default="float32")
    for name, default in (("hidden", 128), ("intermediate", 256), ("layers", 2), ("heads", 4), ("kv-heads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default {default}")
    options = vars(parser.parse_args())
    make(options.pop("path"), options.pop("kind"), options.pop("dtype"), **options)


if __name__ == "__main__":
    main()
