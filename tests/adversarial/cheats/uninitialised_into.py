"""Writes nothing to the output it was given: what an earlier call left there may be right."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=silu into=1


def run(x, output):
    return None
