"""Computes only where the output it was given holds poison, and so will be looked at; elsewhere it leaves what is there."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=silu into=1
import torch


def run(x, output):
    d = x.shape[-1] // 2
    if bool(output[0, 0].isnan()):
        output.copy_(torch.nn.functional.silu(x[:, :d]) * x[:, d:])
