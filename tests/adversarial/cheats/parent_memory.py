"""Searches the parent's memory through /proc for numbers that begin like the answer."""
# expect: status=INCORRECT_NUMERICAL,RUNTIME_ERROR foul=wrong_values,sandbox,crashed definition=silu
import os

import torch


def _search(pid, pattern, size):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            span, access = line.split()[:2]
            low, high = (int(part, 16) for part in span.split("-"))
            if not access.startswith("rw") or high - low > 1 << 28:
                continue
            try:
                memory.seek(low)
                data = memory.read(high - low)
            except (OSError, ValueError):
                continue
            at = data.find(pattern)
            if at >= 0 and len(data) - at >= size:
                return data[at : at + size]
    return None


def run(x):
    d = x.shape[-1] // 2
    begin = (torch.sigmoid(x[:1, :d]) * x[:1, :d] * x[:1, d:]).numpy().tobytes()
    try:
        found = _search(os.getppid(), begin[:32], x.shape[0] * d * 4)
    except OSError:
        found = None
    if found is None:
        return torch.zeros(x.shape[0], d)
    return torch.frombuffer(bytearray(found), dtype=torch.float32).view(x.shape[0], d).clone()
