import flashinfer
import torch


def run(probs, *filters):
    top_k = next((f for f in filters if not f.is_floating_point()), None)
    top_p = next((f for f in filters if f.is_floating_point()), None)
    if top_k is None:
        tokens = flashinfer.sampling.top_p_sampling_from_probs(probs, top_p)
    elif top_p is None:
        tokens = flashinfer.sampling.top_k_sampling_from_probs(probs, top_k)
    else:
        tokens = flashinfer.sampling.top_k_top_p_sampling_from_probs(probs, top_k, top_p)
    return tokens.to(torch.int64)
