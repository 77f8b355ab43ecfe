from vllm.model_executor.layers.activation import SiluAndMul


def run(x):
    return SiluAndMul.forward_native(x)
