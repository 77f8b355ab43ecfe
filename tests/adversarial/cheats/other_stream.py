"""Launches the work on a stream of its own and never joins it, so that events on the current stream see nothing."""
# expect: status=RUNTIME_ERROR,INCORRECT_NUMERICAL foul=late_work,wrong_values,stale_output definition=silu needs=cuda
import torch

_stream = torch.cuda.Stream() if torch.cuda.is_available() else None


def run(x):
    d = x.shape[-1] // 2
    out = torch.empty(x.shape[0], d, device=x.device)
    with torch.cuda.stream(_stream):
        out.copy_(torch.nn.functional.silu(x[:, :d]) * x[:, d:])
    return out
