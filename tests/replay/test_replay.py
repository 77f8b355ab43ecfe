"""Requests leave when their time has come, ask for what the trace has, and every failure is an answer."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint

from fib_plugin.replay.answer import Answer
from fib_plugin.replay.arrivals import Arrival

pytest.importorskip("aiohttp")
from fib_plugin.replay.client import Client, EndpointError
from fib_plugin.replay.replay import Replay
from fib_plugin.replay.summary import Summary


def run(
    endpoint: FakeEndpoint, arrivals: Sequence[Arrival], concurrency: int | None = None, **options: Any
) -> tuple[Summary, list[Answer]]:
    async def main() -> tuple[Summary, list[Answer]]:
        async with Client(endpoint.url, **{"vocabulary": 100, **options}) as client:
            replay = Replay(client, arrivals, concurrency=concurrency)
            return await replay.run(), replay.answers

    return asyncio.run(main())


def test_requests_leave_at_their_arrival_times() -> None:
    arrivals = [Arrival(at, 4, 1) for at in (0.0, 0.2, 0.25, 0.6)]
    with FakeEndpoint() as endpoint:
        summary, answers = run(endpoint, arrivals)
    assert summary.completed == 4
    for answer in answers:
        assert answer.arrival.at <= answer.sent < answer.arrival.at + 0.5
    gaps = [after - before for before, after in itertools.pairwise(endpoint.times)]
    assert gaps == pytest.approx([0.2, 0.05, 0.35], abs=0.15)


def test_a_request_does_not_wait_for_the_answer_of_the_one_before() -> None:
    with FakeEndpoint(first=0.5) as endpoint:
        summary, _ = run(endpoint, [Arrival(0.0, 4, 1)] * 6)
    assert endpoint.most_at_once > 1
    assert summary.seconds < 2.5


def test_no_more_requests_are_under_way_than_allowed() -> None:
    with FakeEndpoint(first=0.1) as endpoint:
        summary, answers = run(endpoint, [Arrival(0.0, 4, 1)] * 6, concurrency=2)
    assert endpoint.most_at_once <= 2
    assert summary.late is not None
    assert summary.late.max >= 150  # the last pair waits for two others
    assert len(answers) == 6


def test_prompts_and_outputs_have_the_lengths_of_the_trace() -> None:
    arrivals = [Arrival(0.0, 7, 3), Arrival(0.0, 1, 1), Arrival(0.0, 2000, 2)]
    with FakeEndpoint() as endpoint:
        summary, answers = run(endpoint, arrivals)
    asked = sorted((len(r["prompt"]), r["max_tokens"], r["min_tokens"], r["ignore_eos"]) for r in endpoint.requests)
    assert asked == [(1, 1, 1, True), (7, 3, 3, True), (2000, 2, 2, True)]
    assert sorted((a.prompt_tokens, a.output_tokens, len(a.pieces)) for a in answers) == [
        (1, 1, 1),
        (7, 3, 3),
        (2000, 2, 2),
    ]
    assert summary.other_lengths == 0
    assert {request["model"] for request in endpoint.requests} == {"tiny"}


def test_token_ids_are_in_the_vocabulary_and_the_same_for_the_same_seed() -> None:
    first, second, other = (Client("http://host/v1", vocabulary=50, seed=seed) for seed in (1, 1, 2))
    assert first.prompt(0, 500) == second.prompt(0, 500)
    assert first.prompt(0, 500) != first.prompt(1, 500)
    assert first.prompt(0, 500) != other.prompt(0, 500)
    assert set(first.prompt(0, 5000)) == set(range(3, 50))


def test_known_delays_are_measured() -> None:
    with FakeEndpoint(first=0.3, between=0.1) as endpoint:
        summary, _ = run(endpoint, [Arrival(0.0, 4, 4)])
    assert summary.ttft is not None
    assert summary.inter_token is not None
    assert summary.end_to_end is not None
    assert summary.ttft.p50 == pytest.approx(300, rel=0.5)
    assert summary.inter_token.mean == pytest.approx(100, rel=0.5)
    assert summary.end_to_end.p50 == pytest.approx(600, rel=0.5)
    assert summary.output_tokens == 4


def test_fields_of_the_body_are_sent_and_win_over_ours() -> None:
    with FakeEndpoint() as endpoint:
        run(endpoint, [Arrival(0.0, 4, 1)], body={"temperature": 0.5, "min_tokens": 0}, api_key="secret")
    assert (endpoint.requests[0]["temperature"], endpoint.requests[0]["min_tokens"]) == (0.5, 0)
    assert endpoint.keys == ["Bearer secret"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("http_400", "http_400"),
        ("no_done", "ended_early"),
        ("hang_up", "ended_early"),
        ("error_event", "engine_error"),
        ("no_json", "bad_answer"),
        ("empty", "empty"),
        ("stall", "timeout"),
    ],
)
def test_failures_are_counted_by_kind_and_told_once(fault: str, kind: str) -> None:
    told: list[str] = []
    with FakeEndpoint(fault=fault, every=2) as endpoint:
        summary, _ = run(endpoint, [Arrival(0.0, 4, 3)] * 4, timeout=1.0, notice=told.append)
    assert summary.failures == {kind: 2}
    assert summary.completed == 2
    assert len(told) == 1
    if fault == "http_400":
        assert "is out of vocabulary" in told[0]


def test_an_engine_that_dies_on_the_way_is_a_failed_connection() -> None:
    endpoint = FakeEndpoint()
    with endpoint:
        timer = threading.Timer(0.3, endpoint.__exit__)
        timer.start()
        summary, _ = run(endpoint, [Arrival(0.0, 4, 1), Arrival(1.0, 4, 1)])
        timer.join()
    assert summary.completed == 1
    assert summary.failures == {"connection": 1}


def test_an_endpoint_that_is_not_there_is_named_before_anything_is_sent() -> None:
    endpoint = FakeEndpoint()
    endpoint._server.server_close()
    with pytest.raises(EndpointError, match=r"cannot be reached.*--url"):
        run(endpoint, [Arrival(0.0, 4, 1)])


def test_a_model_that_is_not_served_is_named_with_those_that_are() -> None:
    with FakeEndpoint() as endpoint, pytest.raises(EndpointError, match=r"does not serve 'large' \(--model: tiny\)"):
        run(endpoint, [Arrival(0.0, 4, 1)], model="large")


def test_an_interrupt_ends_the_replay_with_what_came_so_far() -> None:
    arrivals = [Arrival(0.0, 4, 1), Arrival(0.0, 4, 1), Arrival(0.0, 4, 1), Arrival(60.0, 4, 1)]
    with FakeEndpoint(fault="stall", every=3) as endpoint:
        timer = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        started = time.perf_counter()
        summary, _ = run(endpoint, arrivals)
        timer.join()
    assert time.perf_counter() - started < 20
    assert (summary.completed, summary.cut_off, summary.planned) == (2, 1, 4)
    assert summary.interrupted
