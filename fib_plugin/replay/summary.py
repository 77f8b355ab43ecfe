"""Summary: latencies, throughput and failures of a replay. `fib replay` prints it, whole or of what came so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fib_plugin.replay.answer import Answer

_POINTS = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution in milliseconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Latency | None:
        """None if there is nothing to tell."""
        values = np.fromiter(seconds, dtype=np.float64) * 1e3
        if not values.size:
            return None
        p50, p90, p99 = (float(value) for value in np.percentile(values, _POINTS))
        return cls(float(values.mean()), p50, p90, p99, float(values.max()))


@dataclass(frozen=True, slots=True)
class Summary:
    """What a replay came to.

    Args:
        planned: requests that were to be sent.
        completed: whole answers. Latencies and tokens are theirs.
        failures: the others that were sent, by kind.
        other_lengths: whole answers with other token counts than asked.
        cut_off: requests under way when the replay was interrupted.
        seconds: from the first arrival to the last byte.
        ttft: to the first piece of output, from sending.
        inter_token: between pieces of output; an engine that falls behind puts several tokens in one.
        end_to_end: to the last byte, from sending.
        late: how long after its arrival time a request was sent, as the bound on requests under way and this client's
            own work made it wait. The other latencies do not hold it.
    """

    planned: int
    completed: int
    failures: dict[str, int]
    other_lengths: int
    cut_off: int
    interrupted: bool
    seconds: float
    requests_per_s: float
    output_tokens_per_s: float
    prompt_tokens: int
    output_tokens: int
    ttft: Latency | None
    inter_token: Latency | None
    end_to_end: Latency | None
    late: Latency | None

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def to_dict(self) -> dict[str, Any]:
        """For --json; latencies carry their unit in the key."""
        latencies = {"ttft", "inter_token", "end_to_end", "late"}
        return {f"{key}_ms" if key in latencies else key: value for key, value in asdict(self).items()}


def summarize(answers: Sequence[Answer], planned: int, cut_off: int = 0, interrupted: bool = False) -> Summary:
    """The summary of ``answers``, in any order."""
    whole = [answer for answer in answers if answer.failure is None]
    seconds = max((answer.ended for answer in answers), default=0.0)
    output = sum(answer.generated for answer in whole)
    return Summary(
        planned=planned,
        completed=len(whole),
        failures=dict(Counter(answer.failure for answer in answers if answer.failure is not None).most_common()),
        other_lengths=sum(not answer.as_asked for answer in whole),
        cut_off=cut_off,
        interrupted=interrupted,
        seconds=seconds,
        requests_per_s=len(whole) / seconds if seconds else 0.0,
        output_tokens_per_s=output / seconds if seconds else 0.0,
        prompt_tokens=sum(
            answer.arrival.prompt_tokens if answer.prompt_tokens is None else answer.prompt_tokens for answer in whole
        ),
        output_tokens=output,
        ttft=Latency.of(answer.ttft for answer in whole),
        inter_token=Latency.of(gap for answer in whole for gap in answer.gaps),
        end_to_end=Latency.of(answer.ended - answer.sent for answer in whole),
        late=Latency.of(answer.late for answer in answers),
    )
