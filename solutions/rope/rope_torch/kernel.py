"""Rotary embedding with complex numbers: a pair is a point in the plane, its rotation one multiplication."""

import torch

IS_NEOX = True  # fib: is_neox


def _rotate(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    half = turn.shape[-1]
    head = x[..., : 2 * half].to(torch.float32)
    # Neox pairs (i, i + half), gptj pairs neighbours; a complex number wants neighbours.
    pairs = head.unflatten(-1, (2, half)).transpose(-1, -2) if IS_NEOX else head.unflatten(-1, (half, 2))
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
    head = (turned.transpose(-1, -2) if IS_NEOX else turned).flatten(-2)
    return torch.cat((head.to(x.dtype), x[..., 2 * half :]), dim=-1)


@torch.no_grad()
def rope(
    q: torch.Tensor, k: torch.Tensor, cos_sin_cache: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = cos_sin_cache[positions].to(torch.float32).chunk(2, dim=-1)
    turn = torch.complex(cos.contiguous(), sin.contiguous()).unsqueeze(1)
    return _rotate(q, turn), _rotate(k, turn)
