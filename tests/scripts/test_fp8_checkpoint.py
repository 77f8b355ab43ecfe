"""Checkpoints in fp8: what is quantized, with which names and scales, and what the config says of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import make_model

pytest.importorskip("transformers")

SIZES: dict[str, Any] = {"hidden": 512, "intermediate": 1024, "heads": 4, "kv_heads": 2, "layers": 1}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("kind", ["llama_fp8", "llama_fp8_block", "qwen3_moe_fp8_block"])
def test_weights_times_scales_are_the_weights_of_the_plain_model(kind: str, tmp_path: Path) -> None:
    plain = tensors(make_model.make(tmp_path / "plain", kind.partition("_fp8")[0], **SIZES))
    made = tensors(make_model.make(tmp_path / "fp8", kind, **SIZES))
    suffix = "_scale_inv" if kind.endswith("block") else "_scale"
    quantized = {name for name, tensor in made.items() if tensor.dtype is torch.float8_e4m3fn}
    assert quantized
    assert set(made) == set(plain) | {name + suffix for name in quantized}
    for name, tensor in plain.items():
        if name not in quantized:
            assert torch.equal(made[name], tensor), name
            continue
        scale = made[name + suffix]
        assert scale.dtype is torch.float32
        if suffix == "_scale_inv":
            assert scale.shape == (tensor.shape[0] // 128, tensor.shape[1] // 128)
            scale = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
        # Three bits of mantissa: half a unit in the last place is a sixteenth.
        error = (made[name].float() * scale - tensor).abs()
        assert bool((error <= tensor.abs() / 16 + tensor.abs().max() / 448 / 64).all()), name


def test_routers_embeddings_and_lm_head_stay_and_the_config_says_so(tmp_path: Path) -> None:
    folder = make_model.make(tmp_path / "fp8", "qwen3_moe_fp8_block", **SIZES)
    left = {name for name, tensor in tensors(folder).items() if tensor.dtype is torch.float32 and tensor.dim() == 2}
    scales = {name for name in left if name.endswith("_scale_inv")}
    assert left - scales == {"lm_head.weight", "model.embed_tokens.weight", "model.layers.0.mlp.gate.weight"}
    assert any("experts.3.down_proj" in name for name in scales)
    told = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert told["quant_method"] == "fp8"
    assert told["weight_block_size"] == [128, 128]
    assert told["modules_to_not_convert"] == ["lm_head", "model.layers.0.mlp.gate"]


def test_sizes_that_blocks_do_not_divide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiples of 128"):
        make_model.make(tmp_path / "fp8", "llama_fp8_block")
