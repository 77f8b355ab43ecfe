"""Enters a context manager that lives in a global."""
# honest: definition=silu
import contextlib

import torch

_no_grad = torch.no_grad()


@contextlib.contextmanager
def _quiet():
    with _no_grad:
        yield


def run(x):
    d = x.shape[-1] // 2
    with _quiet():
        return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
