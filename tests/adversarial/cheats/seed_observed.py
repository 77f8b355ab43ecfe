"""Learns from two inputs where the generator stands and has later answers ready; what it cannot foresee is zero."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output,nondeterministic definition=norm
import torch

_seen = []
_ready = {}


def run(x, weight):
    key = float(x.view(-1)[0])
    if key in _ready:
        return _ready[key]
    _seen.append(x.clone())
    if len(_seen) <= 2:
        torch.manual_seed(int(abs(key) * 1e6))
        for _ in range(32):
            made = torch.randn_like(x)
            _ready[float(made.view(-1)[0])] = torch.nn.functional.rms_norm(made, (x.shape[-1],), weight, 1e-5)
        return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-5)
    return torch.zeros_like(x)
