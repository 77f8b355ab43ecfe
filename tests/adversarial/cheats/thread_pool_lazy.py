"""Hands the work to a pool and waits for it only when the next call comes, so that one call is always free."""
# expect: status=RUNTIME_ERROR,INCORRECT_NUMERICAL foul=leftover_threads,late_work,stale_output,wrong_values definition=silu
from concurrent.futures import ThreadPoolExecutor

import torch

_pool = ThreadPoolExecutor(1)
_pending = []


def _work(x, out):
    d = x.shape[-1] // 2
    with torch.inference_mode():
        out.copy_(torch.nn.functional.silu(x[:, :d]) * x[:, d:])


def run(x):
    for one in _pending:
        one.result()
    _pending.clear()
    out = torch.empty(x.shape[0], x.shape[1] // 2)
    _pending.append(_pool.submit(_work, x, out))
    return out
