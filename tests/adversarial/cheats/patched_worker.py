"""Replaces a function of the benchmark's own modules: outputs that were poisoned, described or stored by it."""
# expect: status=RUNTIME_ERROR,INCORRECT_NUMERICAL foul=patched,wrong_values,stale_output definition=silu
import sys

import torch

for _name, _module in list(sys.modules.items()):
    if _name.startswith("fib_plugin.bench"):
        for _what in ("spoil", "poison", "describe"):
            if hasattr(_module, _what):
                setattr(_module, _what, getattr(_module, _what).__class__(
                    (lambda *a, **k: None).__code__, {}, _what))


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
