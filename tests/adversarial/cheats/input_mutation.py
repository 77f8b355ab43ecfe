"""Works in place on its input to save an allocation."""
# expect: status=INCORRECT_NUMERICAL foul=input_written definition=silu
import torch


def run(x):
    d = x.shape[-1] // 2
    torch.nn.functional.silu(x[:, :d], inplace=True)
    return x[:, :d] * x[:, d:]
