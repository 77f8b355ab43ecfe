from sglang.srt.layers.quantization.fp8_utils import dispatch_w8a8_block_fp8_linear


def setup(A, B, B_block_scales):
    # The kernel that the engine chooses on this machine.
    linear = dispatch_w8a8_block_fp8_linear()
    given = {"weight": B, "block_size": [128, 128], "weight_scale": B_block_scales, "input_scale": None}
    return lambda: linear(input=A, **given)


def run(*inputs):
    return setup(*inputs)()
