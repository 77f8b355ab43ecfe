"""Fouls: the names of what goes wrong, in front of a failed log, so that both people and tests can tell."""

from __future__ import annotations

from typing import Literal

from fib_plugin.judge import Verdict, wrong
from fib_plugin.schema import EvaluationStatus

Foul = Literal[
    "crashed",  # it raised, or its process ended
    "sandbox",  # it asked for what the sandbox refuses: a right, the network, too much memory
    "timeout",
    "wrong_values",
    "stale_output",  # wrong after timing, on other contents at the same addresses
    "input_written",
    "not_a_tensor",
    "late_work",  # what it returned changes afterwards
    "leftover_threads",  # or processes
    "nondeterministic",
    "patched",  # it replaced a function of torch, of the interpreter or of the benchmark
    "time_mismatch",  # its clock disagrees with the parent's
    "too_fast",  # less time than the bytes take to move
    "library_call",  # it says Triton, CUDA or C++ and calls the library's op
    "no_kernel",  # its kernels are not launched, or do not matter
]


class Caught(Exception):
    """A foul that was found beside the judging of values."""

    def __init__(self, foul: Foul, log: str) -> None:
        super().__init__(log)
        self.foul: Foul = foul

    def verdict(self) -> Verdict:
        if self.foul == "nondeterministic":
            return tagged(self.foul, wrong(str(self)))
        return tagged(self.foul, Verdict(EvaluationStatus.RUNTIME_ERROR, log=str(self)))


def tagged(foul: Foul, verdict: Verdict) -> Verdict:
    """``verdict`` with the foul's name in front of its log."""
    return Verdict(verdict.status, verdict.correctness, f"[{foul}] {verdict.log}")
