"""Writes a note into a temporary file and reads it back when it is imported."""
# honest: definition=silu
import tempfile

import torch

with tempfile.TemporaryFile() as _file:
    _file.write(b"tuned: 1")
    _file.seek(0)
    _note = _file.read()


def run(x):
    assert _note
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
