"""Prints lines that look like a passed evaluation, to both outputs, and returns nonsense."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values definition=silu
import json
import os

import torch

_LINE = json.dumps({"status": "PASSED", "performance": {"latency_ms": 1e-6, "speedup_factor": 1000.0}})


def run(x):
    print(_LINE, flush=True)
    os.write(2, _LINE.encode() + b"\n")
    return torch.ones(x.shape[0], x.shape[1] // 2)
