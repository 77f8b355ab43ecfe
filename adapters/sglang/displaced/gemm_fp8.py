from sglang.srt.layers.quantization.fp8_utils import apply_fp8_linear


def setup(A, *rest):
    # With a calibrated scale there is one input more, before the weight.
    A_scale, B, scales = rest if len(rest) == 3 else (None, *rest)
    given = {"weight": B.t(), "weight_scale": scales.reshape(-1, 1) if scales.numel() > 1 else scales}
    return lambda: apply_fp8_linear(input=A, input_scale=A_scale, **given)


def run(*inputs):
    return setup(*inputs)()
