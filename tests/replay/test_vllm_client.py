"""vLLM's function that sends a request, in our replay: the same schedule and lengths, and no failure is lost."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint

from fib_plugin.replay.answer import Answer
from fib_plugin.replay.arrivals import Arrival

pytest.importorskip("aiohttp")
from fib_plugin.replay import vllm_client
from fib_plugin.replay.client import Client, EndpointError
from fib_plugin.replay.replay import Replay
from fib_plugin.replay.summary import Summary
from fib_plugin.replay.vllm_client import VllmClient


@pytest.fixture
def vllm() -> ModuleType:
    """The real one."""
    return pytest.importorskip(vllm_client.MODULE)


def run(
    endpoint: FakeEndpoint, arrivals: Sequence[Arrival], kind: type[Client] = VllmClient, **options: Any
) -> tuple[Summary, list[Answer]]:
    async def main() -> tuple[Summary, list[Answer]]:
        async with kind(endpoint.url, **{"vocabulary": 100, **options}) as client:
            replay = Replay(client, arrivals)
            return await replay.run(), replay.answers

    return asyncio.run(main())


@pytest.mark.usefixtures("vllm")
def test_requests_leave_at_their_times_with_the_lengths_of_the_trace() -> None:
    arrivals = [Arrival(0.0, 7, 3), Arrival(0.3, 1, 1), Arrival(0.5, 2000, 2)]
    with FakeEndpoint() as endpoint:
        summary, answers = run(endpoint, arrivals, body={"temperature": 0.8})
    assert summary.completed == 3
    asked = [(len(r["prompt"]), r["max_tokens"], r["min_tokens"], r["ignore_eos"]) for r in endpoint.requests]
    assert asked == [(7, 3, 3, True), (1, 1, 1, True), (2000, 2, 2, True)]
    assert all(request["temperature"] == 0.8 and request["model"] == "tiny" for request in endpoint.requests)
    assert [after - before for before, after in zip(endpoint.times, endpoint.times[1:], strict=False)] == pytest.approx(
        [0.3, 0.2], abs=0.15
    )
    counts = sorted((a.prompt_tokens, a.output_tokens, len(a.pieces)) for a in answers)
    assert counts == [(1, 1, 1), (7, 3, 3), (2000, 2, 2)]
    assert summary.other_lengths == 0


@pytest.mark.usefixtures("vllm")
def test_both_clients_send_the_same_prompts_and_see_the_same_times() -> None:
    arrivals = [Arrival(0.0, 5, 4)]
    with FakeEndpoint(first=0.3, between=0.15) as endpoint:
        (theirs, _), (ours, _) = run(endpoint, arrivals), run(endpoint, arrivals, Client)
    assert endpoint.requests[0]["prompt"] == endpoint.requests[1]["prompt"]
    for summary in (theirs, ours):
        assert summary.ttft is not None
        assert summary.inter_token is not None
        assert summary.ttft.mean == pytest.approx(300, abs=120)
        assert summary.inter_token.mean == pytest.approx(150, abs=60)


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("http_400", "http_error"),
        ("no_done", "ended_early"),
        ("hang_up", "ended_early"),
        ("empty", "empty"),
        ("no_json", "bad_answer"),
    ],
)
def test_what_vllm_would_count_as_served_is_a_failure_too(fault: str, kind: str) -> None:
    told: list[str] = []
    with FakeEndpoint(fault=fault) as endpoint:
        summary, answers = run(endpoint, [Arrival(0.0, 4, 3)] * 2, notice=told.append)
    assert summary.completed == 0
    assert {answer.failure for answer in answers} == {kind}
    assert len(told) == 1


@pytest.mark.usefixtures("vllm")
def test_an_answer_that_never_ends_is_given_up_and_the_others_are_whole() -> None:
    with FakeEndpoint(fault="stall", every=2) as endpoint:
        summary, answers = run(endpoint, [Arrival(0.0, 4, 1)] * 4, timeout=1.0)
    assert summary.completed == 2
    assert summary.failures == {"timeout": 2}
    assert all(answer.ended >= 1.0 for answer in answers if answer.failure)


def test_without_vllm_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, vllm_client.MODULE, None)
    with pytest.raises(EndpointError, match="--client own"):
        VllmClient("http://127.0.0.1:1/v1", vocabulary=10)


def test_a_version_whose_function_differs_is_refused_by_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType(vllm_client.MODULE)
    monkeypatch.setitem(sys.modules, vllm_client.MODULE, other)
    with pytest.raises(EndpointError, match="lacks async_request_openai_completions, RequestFuncInput"):
        VllmClient("http://127.0.0.1:1/v1", vocabulary=10)
