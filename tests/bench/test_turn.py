"""One side of a timing: what it asks of its child, in which order, and what it changes in between."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fib_plugin.bench import wire
from fib_plugin.bench.blob import take_over
from fib_plugin.bench.sets import TimingSets
from fib_plugin.bench.timing import MOST_CALLS
from fib_plugin.bench.turn import Turn, Uncaptured
from fib_plugin.judge import Verdict
from fib_plugin.schema import EvaluationStatus


class Asked:
    """A seat whose child is on a GPU, and answers at once."""

    displaced = False

    def __init__(self, device: str = "cuda", why: str = "") -> None:
        self.why = why
        held = iter(range(0, 10**9, 700))
        self.child = SimpleNamespace(
            place=SimpleNamespace(device=device), took_ns=50_000, waited_ns=functools.partial(next, held)
        )
        self.messages: list[Any] = []

    def ask(self, message: wire.Request, kind: type) -> Any:
        self.messages.append(message)
        return {
            wire.Ready: wire.Ready(),
            wire.Recorded: wire.Recorded(self.why),
            wire.Sampled: wire.Sampled(1000.0),
            wire.Kept: wire.Kept([]),
        }[kind]

    @property
    def kinds(self) -> list[type]:
        return [type(message) for message in self.messages]


@pytest.fixture
def sets() -> Iterator[TimingSets]:
    inputs = [[torch.randn(64, 32), torch.randn(32), torch.arange(4)] for _ in range(3)]
    sets = TimingSets("sets", inputs, [(torch.float32, (64, 32))])
    yield sets
    sets.close()


def turn(
    seat: Asked,
    sets: TimingSets,
    mutates: Sequence[str] = (),
    judged: bool = True,
    repeats: bool = False,
    **options: Any,
) -> Turn:
    case: Any = SimpleNamespace(
        definition=SimpleNamespace(inputs={"x": None, "weight": None, "indices": None}),
        config=SimpleNamespace(mutates=mutates),
        reference_ms=1.0,
        cache=SimpleNamespace(repeats=repeats),
        sets=lambda displaced: sets,
    )
    check = (lambda outputs, index: Verdict(EvaluationStatus.PASSED)) if judged else None
    return Turn(seat, case, "key", 0.0, check, **options)  # type: ignore[arg-type]


def test_what_changed_is_copied_before_the_burst_and_not_in_it(sets: TimingSets) -> None:
    seat = Asked()
    turn(seat, sets).burst(4)
    assert seat.kinds == [wire.Ping, wire.Burst, wire.Keep]
    assert {fresh.index for fresh in seat.messages[0].fresh} == {0, 1, 2}
    for fresh in seat.messages[0].fresh:
        assert set(fresh.rows) <= {0, 1}  # indices stay what they are
        assert all(rows is None or 1 < len(rows) <= 8 for rows in fresh.rows.values())


@pytest.mark.parametrize(("device", "held_ns"), [("cpu", 700), ("cuda", 0)])
def test_a_burst_on_a_cpu_knows_for_how_long_it_was_kept_from_a_core(
    device: str, held_ns: int, sets: TimingSets
) -> None:
    assert turn(Asked(device), sets).burst(4).held_ns == held_ns


def test_inputs_change_between_the_recording_of_a_graph_and_its_replay(sets: TimingSets) -> None:
    seat = Asked()
    turn(seat, sets, graphs=True).burst(5)
    record, ping, burst, _ = seat.messages
    assert seat.kinds == [wire.Record, wire.Ping, wire.Burst, wire.Keep]
    assert len(ping.fresh) == 3
    assert burst.replay
    assert (record.key, record.start, record.calls, record.toll) == (burst.key, burst.start, burst.calls, burst.toll)


def test_calls_that_cannot_be_recorded_are_not_timed(sets: TimingSets) -> None:
    seat = Asked(why="operation not permitted when stream is capturing")
    with pytest.raises(Uncaptured, match="not permitted"):
        turn(seat, sets, graphs=True).burst(5)
    assert seat.kinds == [wire.Record]


@pytest.mark.parametrize("graphs", [False, True])
def test_no_set_comes_twice_in_a_burst(sets: TimingSets, graphs: bool) -> None:
    assert turn(Asked(), sets, graphs=graphs).most == len(sets)
    assert turn(Asked(), sets, judged=False, graphs=graphs).most == len(sets)


def test_a_warm_cache_has_one_set_that_comes_again(sets: TimingSets) -> None:
    assert turn(Asked(), sets, repeats=True).most == MOST_CALLS
    assert turn(Asked(), sets, repeats=True, graphs=True).most == 64
    assert turn(Asked(), sets, repeats=True, graphs=True, mutates=("x",)).most == len(sets)


def test_a_graph_has_a_bounded_number_of_calls(sets: TimingSets) -> None:
    assert turn(Asked(), sets, graphs=True).burst(100_000).calls == 2048


def test_inputs_that_may_be_written_are_copied_as_a_whole(sets: TimingSets) -> None:
    for judged in (True, False):
        seat = Asked()
        turn(seat, sets, mutates=("x",), judged=judged).burst(1)
        assert [fresh.rows for fresh in seat.messages[0].fresh] == [None]


def test_an_engines_op_keeps_its_inputs(sets: TimingSets) -> None:
    seat = Asked()
    turn(seat, sets, judged=False).burst(3)
    assert seat.messages[0].fresh == []


def test_a_cpu_shares_the_memory_and_copies_nothing(sets: TimingSets) -> None:
    seat = Asked("cpu")
    turn(seat, sets).burst(3)
    assert seat.messages[0].fresh == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float64])
@pytest.mark.parametrize("shape", [(6, 4), (1, 5, 3), (9,)])
def test_the_rows_that_changed_are_all_that_is_needed(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    sets = TimingSets("sets", [[torch.randn(shape).to(dtype), 2.0]], [])
    (layout,) = sets.layouts
    shared = sets.blob.arguments(layout.inputs)
    own = [shared[0].clone(), 2.0]
    fresh = wire.Fresh(0, sets.touch([0], np.random.default_rng(3))[0])
    assert not torch.equal(own[0].view(torch.uint8), shared[0].view(torch.uint8))
    take_over(own, shared, fresh)
    assert torch.equal(own[0].view(torch.uint8), shared[0].view(torch.uint8))
    assert sets.written(0) == []
