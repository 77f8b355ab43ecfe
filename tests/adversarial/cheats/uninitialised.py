"""Returns fresh memory as it is, which may hold what a reference computed there before."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=silu
import torch


def run(x):
    return torch.empty(x.shape[0], x.shape[1] // 2)
