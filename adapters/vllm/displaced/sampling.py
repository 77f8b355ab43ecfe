import inspect

import torch
from vllm import _custom_ops  # noqa: F401, loads the engine's kernels
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

# The method that it binds for this device and these settings.
sampler = TopKTopPSampler()
forward = inspect.unwrap(sampler.forward.__func__)


def setup(probs, *filters):
    top_k = next((f for f in filters if not f.is_floating_point()), None)
    top_p = next((f for f in filters if f.is_floating_point()), None)
    # The engine's op reads logits, overwrites them, and takes the whole vocabulary for "no top-k".
    logits = probs.log()
    if top_k is not None:
        top_k = torch.where(top_k > 0, top_k, probs.shape[-1]).clamp(max=probs.shape[-1])
    return lambda: forward(sampler, logits, {}, top_k, top_p)[0]


def toll(probs, *filters):
    # A solution reads probabilities and narrow filters; the engine has logits.
    logits = probs.log()
    return lambda: (logits.softmax(dim=-1, dtype=torch.float32), *(f.to(f.dtype, copy=True) for f in filters))


def run(*inputs):
    return setup(*inputs)()
