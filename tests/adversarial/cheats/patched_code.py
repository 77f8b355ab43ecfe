"""Swaps the code object inside the timing function: the function is the same object, its body is another."""
# expect: status=RUNTIME_ERROR foul=patched,time_mismatch,crashed definition=silu
import sys
import types

import torch


def _forged(call, sets, start, calls):
    for at in range(start, start + calls):
        last = call(*sets[at % len(sets)])
    return 1.0, last


_timing = sys.modules.get("fib_plugin.bench.burst")
_hit = 0
for _name, _value in list(vars(_timing).items()) if _timing else []:
    if isinstance(_value, types.FunctionType) and "burst" in _name.lower() and not _value.__code__.co_freevars:
        _value.__code__ = _forged.__code__.replace(co_name=_name)
        _hit += 1
if not _hit:
    raise RuntimeError("no timing function found")


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
