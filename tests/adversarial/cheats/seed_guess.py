"""Makes the inputs of the usual seeds beforehand, and their answers; anything else gets zeros."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values definition=silu
import torch

_known = {}


def run(x):
    d = x.shape[-1] // 2
    if not _known:
        for seed in [*range(64), 123, 1234, 1337, 12345]:
            made = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
            _known[float(made[0, 0])] = torch.nn.functional.silu(made[:, :d]) * made[:, d:]
    found = _known.get(float(x[0, 0]))
    return found if found is not None else torch.zeros(x.shape[0], d)
