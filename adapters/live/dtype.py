"""HOT. Names of torch dtypes as definitions spell them."""

from __future__ import annotations

import torch

NAMES: dict[torch.dtype, str] = {
    dtype: str(dtype).removeprefix("torch.")
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)
}
