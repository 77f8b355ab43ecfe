import flashinfer

EPS = 1e-5  # fib: eps


def run(hidden_states, weight):
    return flashinfer.norm.rmsnorm(hidden_states, weight, EPS)
