import flashinfer


def run(x):
    return flashinfer.activation.silu_and_mul(x)
