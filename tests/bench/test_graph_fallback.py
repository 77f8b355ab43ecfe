"""Both sides are timed in CUDA graphs, or neither is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fib_plugin.bench import contest
from fib_plugin.bench.child import Place
from fib_plugin.bench.contest import take_times
from fib_plugin.bench.timing import MOST_CALLS, Sample
from fib_plugin.bench.turn import Uncaptured
from fib_plugin.judge import Verdict, wrong


class Turn:
    """A side that says whether it was asked for graphs. ``refuses``: keys of those that cannot be captured."""

    made: list[tuple[str, bool]]
    refuses: set[str]
    verdict: Verdict | None
    most, sets = MOST_CALLS, 1

    def __init__(
        self,
        seat: Any,
        case: Any,
        key: str,
        latency: float,
        check: Any = None,
        toll: bool = False,
        graphs: bool = False,
    ) -> None:
        self.made.append((key, graphs))
        self.progress, self._refuses = 0.0, graphs and key in self.refuses

    def burst(self, calls: int) -> Sample:
        if self._refuses:
            raise Uncaptured("no")
        return Sample(1e5 * calls, 1e5 * calls, 1e5 * calls, calls)


@pytest.fixture(autouse=True)
def turns(monkeypatch: pytest.MonkeyPatch) -> type[Turn]:
    Turn.made, Turn.refuses, Turn.verdict = [], set(), None
    monkeypatch.setattr(contest, "Turn", Turn)
    monkeypatch.setattr(contest, "_TIMING_S", 0.01)
    return Turn


def timed(device: str = "cuda:0", evaluator: str = "elementwise", graphs: bool = True) -> Any:
    seat = SimpleNamespace(displaced=False, prepare=lambda sets: None, child=SimpleNamespace(sandboxed=True))
    case: Any = SimpleNamespace(config=SimpleNamespace(evaluator=evaluator), sets=lambda displaced: [])
    sides: Any = [SimpleNamespace(seat=seat, key=key, engine=True) for key in ("solution", "op")]
    return take_times(Place(device, 1, Path(), graphs), lambda: 0.0, case, *sides, None)


def test_both_sides_are_timed_in_graphs(turns: type[Turn]) -> None:
    assert timed().timing == "graph"
    assert turns.made == [("solution", True), ("op", True)]


@pytest.mark.parametrize("refuses", ["solution", "op"])
def test_a_side_that_cannot_be_captured_has_both_timed_by_plain_calls(refuses: str, turns: type[Turn]) -> None:
    turns.refuses = {refuses}
    assert timed().timing == "plain"
    assert turns.made[-2:] == [("solution", False), ("op", False)]


@pytest.mark.parametrize("chosen", [{"graphs": False}, {"device": "cpu"}, {"evaluator": "sampling"}])
def test_graphs_are_for_gpus_and_for_what_engines_run_in_them(chosen: dict[str, Any], turns: type[Turn]) -> None:
    assert timed(**chosen).timing == "plain"
    assert turns.made == [("solution", False), ("op", False)]


def test_a_wrong_answer_is_not_forgotten_when_captures_fail_later(turns: type[Turn]) -> None:
    turns.refuses, turns.verdict = {"op"}, wrong("in a timed call")
    assert timed() is turns.verdict
