import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.kernels.linear import init_fp8_linear_kernel
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    GroupShape,
    create_fp8_quant_key,
    kFp8DynamicTensorSym,
    kFp8DynamicTokenSym,
    kFp8StaticTensorSym,
    kFp8StaticTokenSym,
)


def setup(A, *rest):
    # With a calibrated scale there is one input more, before the weight.
    A_scale, B, scales = rest if len(rest) == 3 else (None, *rest)
    layer = torch.nn.Module()
    layer.logical_widths = [B.shape[0]]
    layer.input_scale = A_scale
    if scales.dim() == 2:
        activations = create_fp8_quant_key(static=False, group_shape=GroupShape(1, 128))
        weights = create_fp8_quant_key(static=True, group_shape=GroupShape(128, 128))
        layer.weight_block_size = [128, 128]
        # What a kernel does to a weight and its scales, it does once, at load.
        held = {"weight": B.clone(), "weight_scale_inv": scales.clone()}
    else:
        weights = kFp8StaticTokenSym if scales.numel() > 1 else kFp8StaticTensorSym
        activations = kFp8DynamicTokenSym if scales.numel() > 1 else kFp8DynamicTensorSym
        if A_scale is not None:
            activations = kFp8StaticTensorSym
        layer.weight_block_size = None
        held = {"weight": B.clone().t(), "weight_scale": scales.reshape(-1, 1) if scales.numel() > 1 else scales}
    for name, value in held.items():
        setattr(layer, name, torch.nn.Parameter(value, requires_grad=False))
    with set_current_vllm_config(VllmConfig()):
        # The kernel that the engine chooses on this machine.
        kernel = init_fp8_linear_kernel(
            activation_quant_key=activations,
            weight_quant_key=weights,
            weight_shape=B.shape,
            input_dtype=A.dtype,
            out_dtype=A.dtype,
        )
        kernel.process_weights_after_loading(layer)
    return lambda: kernel.apply_weights(layer, A)


def run(*inputs):
    return setup(*inputs)()
