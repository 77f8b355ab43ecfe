"""Makes torch.equal, torch.allclose and torch.isclose say yes, and returns nonsense."""
# expect: status=RUNTIME_ERROR,INCORRECT_NUMERICAL foul=patched,wrong_values definition=silu
import torch

torch.equal = lambda *a, **k: True
torch.allclose = lambda *a, **k: True
torch.isclose = lambda a, b, **k: torch.ones_like(a, dtype=torch.bool)


def run(x):
    return torch.full((x.shape[0], x.shape[1] // 2), 0.25)
