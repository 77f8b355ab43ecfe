"""Swaps the code object inside the sampling function: the function is the same object, its body is another."""
# expect: status=RUNTIME_ERROR foul=patched,time_mismatch,crashed definition=silu
import sys
import types

import torch


def _forged(call, chunk, *rest):
    for arguments in chunk:
        call(*arguments)
    return 1.0


_timing = sys.modules.get("fib_plugin.bench.timing")
_hit = 0
for _name, _value in list(vars(_timing).items()) if _timing else []:
    if isinstance(_value, types.FunctionType) and "sample" in _name.lower() and not _value.__code__.co_freevars:
        _value.__code__ = _forged.__code__.replace(co_name=_name)
        _hit += 1
if not _hit:
    raise RuntimeError("no sampling function found")


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
