"""What CUPTI says of a call: by made-up events, by a made-up profiler, and what the examiner makes of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_cases import RIGHT, solution

from fib_plugin.bench import kernels, wire
from fib_plugin.bench.child import ChildDied, Place
from fib_plugin.bench.examiner import Examiner, Outcome
from fib_plugin.bench.fouls import Caught
from fib_plugin.bench.kernels import Kernels
from fib_plugin.judge import Verdict
from fib_plugin.schema import EvaluationStatus


def event(name: str, microseconds: float, device: str = "CUDA") -> Any:
    return SimpleNamespace(name=name, self_device_time_total=microseconds, device_type=SimpleNamespace(name=device))


def test_kernels_are_counted_and_copies_take_time_too() -> None:
    events = [event("silu_kernel", 3.0), event("mul_kernel", 2.0), event("Memcpy DtoD", 1.0)] * 4
    events += [event("cudaLaunchKernel", 9.0, "CPU")] * 8
    assert kernels.count(events, 4) == Kernels(device_ns=6000.0, launches=2.0)


def test_where_only_the_host_did_something_nothing_was_launched() -> None:
    assert kernels.count([event("cudaDeviceSynchronize", 5.0, "CPU")], 8) == Kernels(0.0, 0.0)


def test_where_nothing_at_all_was_recorded_nothing_is_known() -> None:
    assert kernels.count([], 8).why


def test_each_set_is_called_once_inside_of_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Profile:
        def __init__(self, activities: Any) -> None: ...

        def __enter__(self) -> Profile:
            order.append("begin")
            return self

        def __exit__(self, *error: object) -> None:
            order.append("end")

        def events(self) -> list[Any]:
            return [event("kernel", 4.0)] * 2

    monkeypatch.setattr("torch.profiler.profile", Profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("wait"))
    found = kernels.trace(order.append, [("x",), ("y",)])
    assert order == ["wait", "begin", "x", "y", "wait", "end"]
    assert found == Kernels(4000.0, 1.0)


def test_what_cannot_be_traced_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES")

    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    assert kernels.trace(lambda: None, [()]).why == "CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"


class Seat:
    """Answers once, and is known to have been dropped."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def ask(self, message: Any, kind: type) -> Any:
        self.asked.append(message)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def traced(answer: Any, device: str = "cuda:0", wanted: bool = True) -> tuple[Outcome, Seat, list[Any]]:
    one, seat, dropped = Examiner.__new__(Examiner), Seat(answer), []
    one._place = Place(device, 1, Path(), kernels=wanted)
    one._seating = SimpleNamespace(drop=dropped.append)  # type: ignore[assignment]
    one._at = seat  # type: ignore[assignment]
    outcome = Outcome(Verdict(EvaluationStatus.PASSED), 1.0)
    return one._traced(outcome, solution("one", RIGHT)), seat, dropped


def test_a_trace_is_on_record_and_its_process_is_used_no_more() -> None:
    outcome, seat, dropped = traced(wire.Traced(2.5e6, 3.0))
    assert (outcome.device_ms, outcome.launches) == (2.5, 3.0)
    assert dropped == [seat]


@pytest.mark.parametrize("answer", [wire.Traced(why="no CUPTI"), ChildDied("it was killed")])
def test_without_a_trace_a_result_stays_what_it_was(answer: Any) -> None:
    outcome, seat, dropped = traced(answer)
    assert outcome.verdict.passed
    assert (outcome.device_ms, outcome.launches, dropped) == (None, None, [seat])


def test_a_solution_that_has_the_gpu_do_nothing_is_caught() -> None:
    with pytest.raises(Caught, match="do nothing at all"):
        traced(wire.Traced(0.0, 0.0))


def test_an_op_that_only_copies_has_no_kernels_and_is_honest() -> None:
    assert traced(wire.Traced(900.0, 0.0))[0].launches == 0.0


@pytest.mark.parametrize(("device", "wanted"), [("cpu", True), ("cuda:0", False)])
def test_nothing_is_traced_where_it_was_not_asked_for_or_cannot_be(device: str, wanted: bool) -> None:
    outcome, seat, dropped = traced(wire.Traced(1.0, 1.0), device, wanted)
    assert (seat.asked, dropped, outcome.launches) == ([], [], None)
