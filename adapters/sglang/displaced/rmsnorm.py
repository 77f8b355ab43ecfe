from types import SimpleNamespace

from sglang.srt.layers.layernorm import RMSNorm

EPS = 1e-5  # fib: eps


def setup(hidden_states, *others):
    *residual, weight = others
    norm = SimpleNamespace(
        weight=weight,
        has_weight=True,
        variance_epsilon=EPS,
        hidden_size=weight.shape[0],
        variance_size_override=None,
        cast_x_before_out_mul=False,
        fp32_residual=False,
        override_orig_dtype=None,
    )
    forward = RMSNorm.forward_cuda if hidden_states.is_cuda else RMSNorm.forward_native
    return lambda: forward(norm, hidden_states, *residual)


def run(*inputs):
    return setup(*inputs)()
