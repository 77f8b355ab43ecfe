"""Latencies, rates and failures are those of the answers."""

from __future__ import annotations

import pytest

from fib_plugin.replay.answer import Answer
from fib_plugin.replay.arrivals import Arrival
from fib_plugin.replay.summary import Latency, summarize


def answer(sent: float, *pieces: float, failure: str | None = None) -> Answer:
    return Answer(
        Arrival(0.0, 5, len(pieces)),
        sent,
        list(pieces),
        ended=pieces[-1] if pieces else sent,
        prompt_tokens=5,
        output_tokens=len(pieces),
        failure=failure,
    )


def test_latencies_of_known_times() -> None:
    summary = summarize([answer(0.0, 0.1, 0.3, 0.4), answer(1.0, 1.3)], planned=2)
    assert summary.ttft is not None
    assert summary.inter_token is not None
    assert summary.end_to_end is not None
    assert summary.late is not None
    assert (summary.ttft.p50, summary.ttft.max) == pytest.approx((200, 300))
    assert (summary.inter_token.mean, summary.inter_token.max) == pytest.approx((150, 200))
    assert (summary.end_to_end.p50, summary.end_to_end.max) == pytest.approx((350, 400))
    assert summary.late.max == pytest.approx(1000)


def test_percentiles_are_interpolated() -> None:
    latency = Latency.of(number / 1000 for number in range(101))
    assert latency is not None
    assert (latency.p50, latency.p90, latency.p99) == pytest.approx((50, 90, 99))


def test_throughput_is_over_the_time_from_the_first_arrival_to_the_last_byte() -> None:
    summary = summarize([answer(0.0, 1.0, 2.0), answer(0.5, 4.0)], planned=2)
    assert summary.seconds == pytest.approx(4.0)
    assert summary.requests_per_s == pytest.approx(0.5)
    assert summary.output_tokens_per_s == pytest.approx(0.75)
    assert (summary.prompt_tokens, summary.output_tokens) == (10, 3)


def test_failures_are_counted_by_kind_and_leave_latencies_alone() -> None:
    failed = [answer(0.0, 9.0, failure="timeout"), answer(0.0, failure="http_400"), answer(0.0, failure="http_400")]
    summary = summarize([answer(0.0, 0.1), *failed], planned=4)
    assert summary.failures == {"http_400": 2, "timeout": 1}
    assert (summary.completed, summary.failed) == (1, 3)
    assert summary.ttft is not None
    assert summary.ttft.max == pytest.approx(100)


def test_answers_of_another_length_are_counted() -> None:
    other = answer(0.0, 0.1, 0.2)
    other.output_tokens = 1
    assert summarize([answer(0.0, 0.1), other], planned=2).other_lengths == 1


def test_nothing_answered_is_a_summary_too() -> None:
    summary = summarize([], planned=3, interrupted=True)
    assert (summary.completed, summary.seconds, summary.requests_per_s) == (0, 0.0, 0.0)
    assert summary.ttft is None
    assert summary.to_dict()["ttft_ms"] is None
