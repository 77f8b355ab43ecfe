"""How far two runs of one model agree: greedy tokens, and the log-probabilities of those that both chose.

In bfloat16 two right kernels need not agree on the last bit, and two almost equally likely tokens may change places;
after that the runs speak of different texts. So a run with our kernels is held against stock by what stock differs from
itself when its requests are put together otherwise: ``judge``.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

#: Tokens [requests][steps], log-probabilities of these, and by how much each led the next likely one.
Answer = dict[str, list[list[Any]]]

#: How many times stock's own spread is still the spread: of two samples of one spread, each has the larger maximum half
#: of the time.
SLACK = 2.0


def answer(outputs: Any) -> Answer:
    """What vLLM generated with ``logprobs=2``."""
    found: Answer = {"tokens": [], "logprobs": [], "margins": []}
    for output in outputs:
        tokens = list(output.outputs[0].token_ids)
        steps = output.outputs[0].logprobs
        found["tokens"].append(tokens)
        found["logprobs"].append([step[token].logprob for step, token in zip(steps, tokens, strict=True)])
        best = [sorted((entry.logprob for entry in step.values()), reverse=True) for step in steps]
        found["margins"].append([line[0] - line[1] for line in best])
    return found


def spread(first: Answer, second: Answer) -> dict[str, Any]:
    """Differences of the chosen tokens' log-probabilities, in nats, up to where two runs part.

    ``parted_at_margins``: of each request that parted, by how much the first run's token led there.
    """
    apart: list[float] = []
    parted: list[float] = []
    for theirs, mine, a, b, margins in zip(
        first["tokens"], second["tokens"], first["logprobs"], second["logprobs"], first["margins"], strict=True
    ):
        same = next((at for at, (x, y) in enumerate(zip(theirs, mine, strict=True)) if x != y), len(theirs))
        apart += [abs(x - y) for x, y in zip(a[:same], b[:same], strict=True)]
        parted += [round(margins[same], 6)] if same < len(theirs) else []
    return {
        "compared": len(apart),
        "of": sum(map(len, first["tokens"])),
        "max": round(max(apart, default=0.0), 6),
        "median": round(statistics.median(apart or [0.0]), 6),
        "requests_parted": len(parted),
        "parted_at_margins": sorted(parted, reverse=True),
    }


def judge(stock: Answer, otherwise: Sequence[Answer], ours: Answer) -> dict[str, Any]:
    """Whether ``ours`` says what stock says: all tokens the same, or within what stock differs from itself.

    Within: no difference above SLACK times the largest of stock's, half of them not above that one, and no request
    parts where stock's token led by more than two tokens can move towards each other.

    Args:
        otherwise: the same requests by stock in batches of other sizes, at least one.
    """
    spreads = [spread(stock, other) for other in otherwise]
    own, found = max(spreads, key=lambda one: one["max"]), spread(stock, ours)
    same, most = stock["tokens"] == ours["tokens"], SLACK * own["max"]
    within = (
        found["compared"] > 0
        and found["max"] <= most
        and found["median"] <= own["max"]
        and all(margin <= 2 * most for margin in found["parted_at_margins"])
    )
    verdict = "same tokens" if same else "within stock's spread" if within else "DIFFERS"
    return {"ok": same or within, "verdict": verdict, "apply": found, "stock in other batches": own}
