"""Writes its output only the first time that memory comes to it, and hopes that the allocator brings it back as it was."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output,nondeterministic definition=silu into=1
import torch

_written = set()


def run(x, output):
    d = x.shape[-1] // 2
    key = x.data_ptr(), output.data_ptr()
    if key not in _written:
        _written.add(key)
        output.copy_(torch.nn.functional.silu(x[:, :d]) * x[:, d:])
