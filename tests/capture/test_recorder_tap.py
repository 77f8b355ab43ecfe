"""Tap and Missed: sites that look at calls do what Site does; a look costs the engine nothing when it fails."""

from __future__ import annotations

import types
from collections.abc import Hashable
from typing import Any

import pytest
import torch

from fib_plugin import ops
from fib_plugin.capture.config import CaptureConfig, Rule
from fib_plugin.capture.policy import Policy
from fib_plugin.capture.recorder import Recorder
from fib_plugin.capture.tap import make_site
from fib_plugin.capture.tap_missed import Missed
from fib_plugin.capture.writer import Record
from fib_plugin.dispatch.site import Entry, Site

SAMPLING = ops.ALL["top_p_sampling"].definition(vocab_size=2)
GEMM = ops.ALL["gemm"].definition(n=2, k=3)


class Kept:
    """Stands where the writer is."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.refuses = False

    def submit(self, record: Record) -> bool:
        if not self.refuses:
            self.records.append(record)
        return not self.refuses


def call(number: float, rows: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(rows, 2), torch.full((rows,), number)


def numbers(writer: Kept) -> list[float]:
    return [float(record.inputs["top_p"][0]) for record in writer.records]


def site(run: Any = None, definition: Any = SAMPLING, **rule: Any) -> tuple[Site, Kept, Recorder]:
    """A site as the runtime makes it, whose entries answer by ``run``."""
    writer: Any = Kept()
    recorder = Recorder(writer, lambda adapter, definition: None, Policy(CaptureConfig(default=Rule(**rule))))

    def learn(site: Site, key: Hashable, inputs: tuple[Any, ...]) -> Entry:
        site.entries[key] = entry = Entry({"batch_size": inputs[0].shape[0]}, run, None, "")
        return entry

    def broke(site: Site, entry: Entry, error: Exception) -> None:
        entry.run = None

    return make_site(recorder, "toy", definition, learn, broke), writer, recorder


# ---- Tap ------------------------------------------------------------------------------------------------------------


def test_under_the_default_policy_the_site_is_a_plain_one() -> None:
    assert type(site()[0]) is Site
    assert type(site(definition=GEMM, keep="all")[0]) is Site
    assert type(site(keep="off")[0]) is Site
    assert type(make_site(None, "toy", SAMPLING, lambda *args: None, lambda *args: None)) is Site  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("made", [False, True])
def test_every_call_is_recorded_answered_and_counted(made: bool) -> None:
    tap, writer, _ = site(lambda probs, top_p: top_p + 1, keep="all")
    for number in range(5):
        inputs = call(number)
        result = tap.attempt_made(1, lambda p, t: (p, t), *inputs) if made else tap.attempt(1, inputs)
        assert result.item() == number + 1
    assert numbers(writer) == [0, 1, 2, 3, 4]
    assert tap.entries[1].calls == 5


def test_calls_that_the_engine_answers_are_recorded_too() -> None:
    tap, writer, _ = site(None, keep="all")
    assert [tap.attempt(1, call(number)) for number in range(3)] == [None] * 3
    assert numbers(writer) == [0, 1, 2]


def test_a_call_is_recorded_as_it_was_before_it_ran() -> None:
    tap, writer, _ = site(lambda probs, top_p: top_p.fill_(-1), keep="all")
    tap.attempt(1, call(7))
    assert numbers(writer) == [7]


def test_the_first_k_calls_of_each_key_are_recorded_and_then_it_is_only_looked_up() -> None:
    tap, writer, recorder = site(None, k=2)
    for number in range(6):
        tap.attempt(1, call(number))
    assert numbers(writer) == [0, 1]
    recorder.record = lambda *args: pytest.fail("asked again")  # type: ignore[method-assign]
    tap.attempt(1, call(6))


def test_with_a_sample_rate_calls_of_a_key_that_is_done_take_their_turns_too() -> None:
    tap, writer, _ = site(None, k=1, sample_rate=0.1)
    for number in range(1000):
        for _ in range(9):
            tap.attempt("common", call(-1))
        tap.attempt(number, call(number))
    assert 60 < len(writer.records) < 140


def test_a_reservoir_looks_at_few_of_many_calls() -> None:
    tap, writer, recorder = site(None, keep="reservoir", k=4)
    asked = []
    record = recorder.record
    recorder.record = lambda *args: asked.append(1) or record(*args)  # type: ignore[method-assign,func-returns-value]
    for number in range(5000):
        tap.attempt(1, call(number))
    assert 4 < len(asked) < 100
    assert numbers(writer)[:4] == [0, 1, 2, 3]


def test_while_stopped_nothing_is_looked_at_and_calls_go_on() -> None:
    tap, writer, recorder = site(lambda probs, top_p: top_p, keep="all")
    recorder.policy.run(False)
    assert tap.attempt(1, call(1)).item() == 1
    recorder.policy.run(True)
    tap.attempt(1, call(2))
    assert numbers(writer) == [2]
    assert tap.entries[1].calls == 2


def test_a_look_that_fails_costs_no_answer_and_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    tap, writer, recorder = site(lambda probs, top_p: top_p, keep="all")
    asked = []
    recorder.record = lambda *args: asked.append(1) or 1 / 0  # type: ignore[method-assign,assignment,func-returns-value]
    assert [tap.attempt(1, call(number)).item() for number in range(9)] == list(range(9))
    assert len(asked) == 3
    assert writer.records == []
    assert sum("could not be recorded" in line.message for line in caplog.records) == 1


def test_while_a_graph_is_captured_nothing_is_looked_at() -> None:
    tap, writer, _ = site(None, keep="all")
    tap.hide()
    tap.attempt(1, call(1))
    tap.show()
    tap.attempt(1, call(2))
    assert numbers(writer) == [2]


def test_a_refused_call_is_tried_at_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tap, writer, recorder = site(None, k=1, dump="all")
    writer.refuses = True
    tap.attempt(1, call(1))
    writer.refuses = False
    monkeypatch.setattr(recorder, "_again_at", 0.0)
    tap.attempt(1, call(2))
    tap.attempt(1, call(3))
    assert numbers(writer) == [2]


def test_the_runtime_need_not_record_what_a_tap_records() -> None:
    tap, _, _ = site(None, keep="all")
    assert 1 in tap.recorded
    tap.recorded.add(1)


# ---- Missed ---------------------------------------------------------------------------------------------------------


class Shown:
    """Stands where Recorder.record is."""

    def __init__(self, answer: bool = True) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> bool:
        self.calls.append(args)
        return self.answer


def known(run: Any = None, trial: Any = None) -> tuple[Site, Entry, Shown, Missed]:
    """A site whose key 1 was met and not written down."""
    shown = Shown()
    plain, _, _ = site(run)
    plain.attempt(1, call(0))
    entry = plain.entries[1]
    entry.trial = trial
    missed = Missed(shown)
    missed.add(plain, 1)
    return plain, entry, shown, missed


def test_the_next_call_of_a_missed_key_is_shown_once_and_the_entry_is_as_before() -> None:
    def run(probs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
        return top_p

    plain, entry, shown, missed = known(run)
    plain.attempt(1, call(1))
    assert shown.calls == []
    missed.arm()
    assert [plain.attempt(1, call(number)).item() for number in (2, 3)] == [2, 3]
    ((adapter, definition, axes, inputs, key),) = shown.calls
    assert (adapter, definition, axes, key) == ("toy", SAMPLING, {"batch_size": 1}, 1)
    assert inputs[1].item() == 2
    assert entry.run is run
    assert entry.calls == 4
    assert len(missed) == 0
    assert 1 in plain.recorded


@pytest.mark.parametrize("made", [False, True])
def test_where_the_engine_answers_the_call_is_shown_too(made: bool) -> None:
    plain, entry, shown, missed = known()
    missed.arm()
    for number in (2, 3):
        inputs = call(number)
        plain.attempt_made(1, lambda p, t: (p, t), *inputs) if made else plain.attempt(1, inputs)
    assert [float(args[3][1]) for args in shown.calls] == [2]
    assert entry.trial is None


def test_a_call_that_is_missed_again_is_shown_again_at_a_later_beat() -> None:
    plain, _, shown, missed = known()
    shown.answer = False
    missed.arm()
    plain.attempt(1, call(1))
    plain.attempt(1, call(2))
    assert len(shown.calls) == 1
    assert len(missed) == 1
    shown.answer = True
    missed.arm()
    plain.attempt(1, call(3))
    assert len(shown.calls) == 2
    assert len(missed) == 0


def test_an_entry_is_armed_once_however_many_beats_pass() -> None:
    plain, entry, shown, missed = known(lambda probs, top_p: top_p)
    for _ in range(3):
        missed.arm()
    plain.attempt(1, call(1))
    plain.attempt(1, call(2))
    assert len(shown.calls) == 1
    assert isinstance(entry.run, types.FunctionType)


def test_a_solution_on_probation_is_left_alone_until_it_is_settled() -> None:
    def trial(make: Any, args: Any) -> None:
        pass

    plain, entry, shown, missed = known(trial=trial)
    missed.arm()
    plain.attempt(1, call(1))
    assert entry.trial is trial
    assert shown.calls == []
    plain.replace(1, entry, Entry(entry.axes, None, None, ""))
    missed.arm()
    plain.attempt(1, call(2))
    assert len(shown.calls) == 1


def test_while_stopped_nothing_is_armed() -> None:
    plain, entry, shown, missed = known()
    missed.running = False
    missed.arm()
    plain.attempt(1, call(1))
    assert entry.trial is None
    assert shown.calls == []


def test_while_a_graph_is_captured_an_armed_entry_waits() -> None:
    plain, entry, shown, missed = known(lambda probs, top_p: top_p)
    missed.arm()
    armed: Any = entry.run
    plain.hide()
    assert armed(*call(1))[0].item() == 1
    assert shown.calls == []
    plain.show()
    plain.attempt(1, call(2))
    assert len(shown.calls) == 1


def test_an_error_while_a_call_is_shown_costs_no_answer_and_is_not_tried_again() -> None:
    plain, _, _, _ = known()
    missed = Missed(lambda *args: 1 // 0 == 0)
    missed.add(plain, 1)
    plain.entries[1].run = lambda probs, top_p: top_p
    missed.arm()
    assert plain.attempt(1, call(1)).item() == 1
    assert len(missed) == 0
