"""Recording calls into a graph must not cost the engine its random numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fib_plugin.dispatch import graph_clock
from fib_plugin.dispatch.graph_clock import Recorded, own_random_state


class Generator:
    """As CUDA's: a state that graphs share by reference, and its value."""

    def __init__(self, device: Any = "cuda") -> None:
        self.state = {"value": 0, "capturing": False}

    def graphsafe_get_state(self) -> dict[str, Any]:
        return self.state

    def graphsafe_set_state(self, state: dict[str, Any]) -> None:
        self.state = state

    def get_state(self) -> Any:
        return self.state["value"]

    def set_state(self, value: Any) -> None:
        self.state["value"] = value


class Event:
    """Reads the clock where it is recorded; a graph's own is recorded by its replay."""

    now = 0.0

    def __init__(self, enable_timing: bool = False, external: bool = False) -> None:
        self.at = -1.0

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


class Graph:
    """Takes 7 ms to start and 3 ms to run."""

    def __init__(self, marks: tuple[Event, Event] | None) -> None:
        self.marks = marks

    def replay(self) -> None:
        Event.now += 7.0
        if self.marks is not None:
            self.marks[0].record()
        Event.now += 3.0
        if self.marks is not None:
            self.marks[1].record()


def test_what_starting_a_graph_takes_is_no_time_of_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    marks = graph_clock._marks()
    recorded = Recorded(Graph(marks), 2, marks=marks)
    assert recorded.timed() == 3e6
    assert recorded.replay_ns() == 1.5e6
    assert Recorded(Graph(None), 2).timed() == 10e6


def test_a_torch_whose_events_are_no_nodes_is_timed_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    def old(enable_timing: bool = False) -> Event:
        return Event(enable_timing)

    monkeypatch.setattr(torch.cuda, "Event", old)
    assert graph_clock._marks() is None


def test_a_capture_that_fails_leaves_the_devices_generator_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator()
    generator.set_state(7)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    monkeypatch.setattr(torch, "Generator", Generator)
    state = generator.state
    seen = []

    def fail() -> None:
        with own_random_state("cuda:0"):
            seen.append(generator.get_state())
            generator.state["capturing"] = True
            raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        fail()
    assert seen == [7], "a capture draws what the next call would have drawn"
    assert generator.state is state
    assert not state["capturing"]


def test_a_generator_that_cannot_lend_a_state_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "default_generators", (torch.Generator("cpu"),))
    with own_random_state("cuda:0"):
        pass
