"""How far two runs agree: stock's own differences are the measure, and parting is allowed only where stock wavers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from gpu_logprobs import answer, judge, spread


def run(tokens: list[int], logprobs: list[float], margins: list[float] | None = None) -> dict[str, Any]:
    return {"tokens": [tokens], "logprobs": [logprobs], "margins": [margins or [1.0] * len(tokens)]}


STOCK = run([1, 2, 3], [-1.0, -2.0, -3.0], [1.0, 0.03, 1.0])
OTHERWISE = run([1, 2, 3], [-1.01, -2.0, -3.002])


def test_differences_are_those_of_tokens_that_both_chose_before_they_part() -> None:
    found = spread(STOCK, run([1, 9, 3], [-1.25, -9.0, -9.0]))
    assert found == {
        "compared": 1,
        "of": 3,
        "max": 0.25,
        "median": 0.25,
        "requests_parted": 1,
        "parted_at_margins": [0.03],
    }
    assert spread(STOCK, OTHERWISE)["median"] == 0.002


def test_the_same_tokens_are_enough() -> None:
    assert judge(STOCK, [STOCK], run([1, 2, 3], [-1.5, -2.0, -3.0]))["verdict"] == "same tokens"


@pytest.mark.parametrize(
    ("tokens", "logprobs", "verdict"),
    [
        # Stock's largest difference is 0.01: twice that is its spread, and two tokens may move 0.04 apart.
        ([1, 9, 9], [-1.01, 0.0, 0.0], "within stock's spread"),
        ([1, 9, 9], [-1.03, 0.0, 0.0], "DIFFERS"),  # too far off
        ([1, 9, 9], [-1.015, 0.0, 0.0], "DIFFERS"),  # half of them above all of stock's
        ([1, 2, 9], [-1.0, -2.0, 0.0], "DIFFERS"),  # parted where stock was certain
        ([9, 9, 9], [-1.0, 0.0, 0.0], "DIFFERS"),  # nothing in common
    ],
)
def test_other_tokens_must_be_within_stocks_spread(tokens: list[int], logprobs: list[float], verdict: str) -> None:
    found = judge(STOCK, [OTHERWISE], run(tokens, logprobs))
    assert (found["verdict"], found["ok"]) == (verdict, verdict != "DIFFERS")


def test_the_widest_of_stocks_spreads_counts() -> None:
    ours = run([1, 9, 9], [-1.01, 0.0, 0.0])
    assert not judge(STOCK, [STOCK], ours)["ok"]
    assert judge(STOCK, [STOCK, OTHERWISE], ours)["ok"]


def test_an_answer_holds_each_tokens_logprob_and_its_lead() -> None:
    steps = [{5: SimpleNamespace(logprob=-0.5), 7: SimpleNamespace(logprob=-1.25)}]
    output = SimpleNamespace(outputs=[SimpleNamespace(token_ids=(5,), logprobs=steps)])
    assert answer([output]) == {"tokens": [[5]], "logprobs": [[-0.5]], "margins": [[0.75]]}
