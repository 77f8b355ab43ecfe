"""Recording calls into a graph must not cost the engine its random numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fib_plugin.dispatch.graph_clock import own_random_state


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
