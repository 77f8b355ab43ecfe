"""Always takes the likeliest token."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,nondeterministic definition=sampler


def run(probs, top_k, top_p):
    return probs.argmax(-1)
