"""What vLLM's CPU build lacks to load an fp8 checkpoint: the rounding of shards to one scale. Its products are real."""

from __future__ import annotations

from typing import Any

import torch

FP8 = torch.float8_e4m3fn


def scaled_fp8_quant(x: torch.Tensor, scale: torch.Tensor | None = None, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if scale is None:
        scale = (x.float().abs().amax().clamp(min=1e-10) / 448).reshape(1)
    return (x.float() / scale).clamp(-448, 448).to(FP8), scale


def install() -> None:
    from vllm import _custom_ops

    _custom_ops.scaled_fp8_quant = scaled_fp8_quant
