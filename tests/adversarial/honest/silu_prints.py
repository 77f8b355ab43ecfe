"""Prints and logs a lot, to both outputs."""
# honest: definition=silu
import logging
import sys

import torch

logging.basicConfig(stream=sys.stderr, level=logging.INFO)


def run(x):
    print("called with", tuple(x.shape))
    logging.getLogger("kernel").info("silu %s", tuple(x.shape))
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
