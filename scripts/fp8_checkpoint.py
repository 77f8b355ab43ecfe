"""Rewrites a checkpoint's linear layers in fp8, as published ones are: ``fp8_checkpoint.py DIR tensor|block``.

make_model.py uses it. Embeddings, norms, routers and lm_head stay as they are; activations are to be quantized by the
engine, dynamically.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

BLOCK = 128
LARGEST = 448.0
#: Names of matrices that engines do not multiply by fp8 kernels.
_LEFT = ("embed_tokens", "lm_head", "mlp.gate.", "norm")


def quantize(folder: Path, scheme: Literal["tensor", "block"]) -> list[str]:
    """The names of the weights that are in fp8 now, each with one scale, or one for each block of 128 by 128.

    Raises:
        ValueError: a weight's sides are no multiples of 128, which engines do not shard.
    """
    from safetensors.torch import load_file, save_file

    done: list[str] = []
    for file in sorted(folder.glob("*.safetensors")):
        tensors: dict[str, Any] = {}
        for name, tensor in load_file(file).items():
            if tensor.dim() != 2 or not name.endswith(".weight") or any(part in name for part in _LEFT):
                tensors[name] = tensor
                continue
            weight, scale = _by_blocks(name, tensor) if scheme == "block" else _whole(tensor)
            tensors[name] = weight
            tensors[f"{name}_scale_inv" if scheme == "block" else f"{name}_scale"] = scale
            done.append(name)
        save_file(tensors, file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    config = folder / "config.json"
    content = json.loads(config.read_text())
    layers = range(content["num_hidden_layers"])
    content["quantization_config"] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "modules_to_not_convert": ["lm_head", *(f"model.layers.{layer}.mlp.gate" for layer in layers)],
        **({"weight_block_size": [BLOCK, BLOCK]} if scheme == "block" else {}),
    }
    config.write_text(json.dumps(content, indent=2) + "\n")
    return done


def _whole(weight: Any) -> tuple[Any, Any]:
    import torch

    scale = weight.float().abs().amax().clamp(min=1e-10) / LARGEST
    return (weight.float() / scale).to(torch.float8_e4m3fn), scale.reshape(())


def _by_blocks(name: str, weight: Any) -> tuple[Any, Any]:
    import torch

    rows, columns = weight.shape
    if rows % BLOCK or columns % BLOCK:
        raise ValueError(f"{name} is {rows} by {columns}: give the model sizes that are multiples of {BLOCK}")
    blocks = weight.float().view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    scale = blocks.abs().amax(dim=(1, 3)).clamp(min=1e-10) / LARGEST
    return (blocks / scale[:, None, :, None]).view(rows, columns).to(torch.float8_e4m3fn), scale


if __name__ == "__main__":
    print("\n".join(quantize(Path(sys.argv[1]), sys.argv[2])))  # type: ignore[arg-type]
