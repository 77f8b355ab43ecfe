"""Works on a stream of its own and joins it before it returns."""
# honest: definition=silu needs=cuda
import torch

_stream = torch.cuda.Stream() if torch.cuda.is_available() else None


def run(x):
    d = x.shape[-1] // 2
    _stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(_stream):
        out = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    torch.cuda.current_stream().wait_stream(_stream)
    out.record_stream(torch.cuda.current_stream())
    return out
