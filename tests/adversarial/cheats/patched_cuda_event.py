"""Replaces torch.cuda.Event and torch.cuda.synchronize, so that elapsed times are whatever it likes."""
# expect: status=RUNTIME_ERROR foul=patched,time_mismatch definition=silu
import torch


class Event:
    def __init__(self, *arguments, **options):
        pass

    def record(self, stream=None):
        pass

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 1e-6


torch.cuda.Event = Event
torch.cuda.synchronize = lambda device=None: None


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
