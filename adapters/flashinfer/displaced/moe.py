import flashinfer
import torch


def setup(hidden_states, w13, w2, topk_weights, topk_ids):
    # The library has the upper half first; an engine lays its weights out once.
    gate, up = w13.chunk(2, dim=1)
    w31 = torch.cat((up, gate), dim=1)
    given = (hidden_states, topk_ids, topk_weights, w31, w2, hidden_states.dtype, [])
    output = torch.empty_like(hidden_states)

    def call():
        flashinfer.fused_moe.cutlass_fused_moe(*given, output=output)
        return output

    return call


def run(*inputs):
    return setup(*inputs)()
