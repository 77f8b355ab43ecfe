"""Right and slow: row by row."""
# honest: definition=silu
import torch


def run(x):
    d = x.shape[-1] // 2
    rows = [torch.nn.functional.silu(row[:d]) * row[d:] for row in x]
    return torch.stack(rows)
