import torch
from fib_plugin.adapters.live.sampling import top_mass

#: What the engine fills in for requests without a filter.
ALL = 1 << 30


def given(probs, filters):
    """The filters as the engine has them: both on the probabilities as they are."""
    top_k = next((f for f in filters if not f.is_floating_point()), None)
    top_p = next((f for f in filters if f.is_floating_point()), None)
    if top_k is not None:
        top_k = torch.where(top_k > 0, top_k, probs.shape[-1]).clamp(max=probs.shape[-1])
    if top_k is not None and top_p is not None:
        top_p = top_p.clamp(max=1.0) * top_mass(probs, top_k)
    return top_k, top_p


def setup(probs, *filters):
    top_k, top_p = given(probs, filters)
    rows = probs.shape[0]
    if top_k is None:
        top_k = torch.full((rows,), ALL, dtype=torch.int32, device=probs.device)
    if top_p is None:
        top_p = torch.ones(rows, device=probs.device)
    if probs.is_cuda:
        from flashinfer.sampling import top_k_top_p_sampling_from_probs

        return lambda: top_k_top_p_sampling_from_probs(probs, top_k, top_p, filter_apply_order="joint").long()
    from sglang.srt.layers.sampler import top_k_top_p_min_p_sampling_from_probs_torch as sample

    positions, least = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows)
    return lambda: sample(probs, top_k, top_p, least, False, None, positions).long()


def toll(probs, *filters):
    # A solution's p is a share of what k leaves; the engine's is one of all. Its tokens are wide, the engine's are not.
    top_k, top_p = given(probs, filters)
    tokens = torch.zeros(probs.shape[0], dtype=torch.int64, device=probs.device)

    def call():
        if top_k is not None and top_p is not None:
            top_p / top_mass(probs, top_k.clamp(max=probs.shape[-1]))
        return tokens.to(torch.int32)

    return call


def run(*inputs):
    return setup(*inputs)()
