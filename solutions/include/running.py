"""A softmax over keys that come tile by tile: what a row keeps is its top score, its sum and its result so far.

Scores carry a factor of log2(e), so that all powers and logarithms are of base 2.
"""

import triton
import triton.language as tl

LOG2_E = 1.4426950408889634


@triton.jit
def step(scores, top, total):
    """Take in scores [rows, keys], -inf where a row does not see a key.

    Returns:
        weights of the keys [rows, keys], what the result so far shrinks by [rows], and the new top and total [rows].
    """
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    base = tl.where(new_top == -float("inf"), 0.0, new_top)  # a row that has seen nothing yet
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(top - base)
    return weights, shrink, new_top, total * shrink + tl.sum(weights, axis=1)


@triton.jit
def finish(result, top, total):
    """The output [rows, d] and its log-sum of base 2 [rows]; a row that saw no key has zeros and -inf."""
    some = total > 0
    safe = tl.where(some, total, 1.0)
    return result / safe[:, None], tl.where(some, top + tl.log2(safe), -float("inf"))
