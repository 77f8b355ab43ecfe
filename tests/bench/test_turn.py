"""One side of a timing: what it asks of its child, in which order, and what it changes in between."""

from __future__ import annotations

import functools
import itertools
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
            place=SimpleNamespace(device=device),
            took_ns=50_000,
            waited_ns=functools.partial(next, held),
            cpu_ns=lambda: self.cpu_ns,
        )
        self.messages: list[Any] = []
        self.cpu_ns = 0
        #: What its process computes before it answers a ping.
        self.busy_ns = 0

    def ask(self, message: wire.Request, kind: type) -> Any:
        self.messages.append(message)
        self.cpu_ns += self.busy_ns if isinstance(message, wire.Ping) else 0
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
    probes: bool = False,
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
    found = Turn(seat, case, "key", 0.0, check, **options)  # type: ignore[arg-type]
    if not probes:
        found._probe = lambda calls: None  # type: ignore[method-assign]
    return found


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


def test_an_engines_op_keeps_its_inputs_and_has_them_as_freshly_written_as_a_solution(sets: TimingSets) -> None:
    before = [value.clone() for inputs in sets.inputs for value in inputs]
    engine, solution = Asked(), Asked()
    turn(engine, sets, judged=False).burst(3)
    assert all(torch.equal(one, other) for one, other in zip(before, itertools.chain(*sets.inputs), strict=True))
    turn(solution, sets).burst(3)
    written = [[(one.index, list(one.rows)) for one in seat.messages[0].fresh] for seat in (engine, solution)]
    assert written[0] == written[1]


def test_calls_of_any_place_in_a_burst_are_looked_at(sets: TimingSets) -> None:
    seat = Asked()
    one = turn(seat, sets, probes=True)
    sizes = {one.burst(3).calls for _ in range(60)}
    bursts = [message.calls for message in seat.messages if type(message) is wire.Burst]
    looked = [
        message.calls
        for message, after in itertools.pairwise(seat.messages)
        if type(message) is wire.Burst and type(after) is wire.Keep
    ]
    assert sizes == {3}  # on record
    assert len(bursts) > 66
    assert set(looked) == {1, 2, 3}


def test_an_engines_op_is_not_looked_at(sets: TimingSets) -> None:
    seat = Asked()
    one = turn(seat, sets, judged=False, probes=True)
    for _ in range(20):
        one.burst(3)
    assert seat.kinds == [wire.Ping, wire.Burst] * 20


@pytest.mark.parametrize(("busy_ns", "found"), [(80_000, False), (900_000, True)])
def test_work_before_a_burst_is_found(sets: TimingSets, busy_ns: int, found: bool) -> None:
    seat = Asked("cpu")
    seat.busy_ns = busy_ns
    one = turn(seat, sets)
    for _ in range(5):
        one.burst(3)
    assert bool(one.works_between()) == found


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
