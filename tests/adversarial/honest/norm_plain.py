"""One library call."""
# honest: definition=norm
import torch


def run(x, weight):
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-5)
