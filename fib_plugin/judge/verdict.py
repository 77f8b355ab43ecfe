"""Verdict: status, errors and reason, as every judge returns it."""

from __future__ import annotations

from dataclasses import dataclass

from fib_plugin.schema import Correctness, EvaluationStatus


@dataclass(frozen=True, slots=True)
class Verdict:
    """``correctness`` is there exactly when numbers could be compared."""

    status: EvaluationStatus
    correctness: Correctness | None = None
    log: str = ""

    @property
    def passed(self) -> bool:
        return self.status is EvaluationStatus.PASSED


def wrong(log: str, correctness: Correctness | None = None) -> Verdict:
    """INCORRECT_NUMERICAL; without numbers the errors count as infinite."""
    infinite = Correctness(max_relative_error=float("inf"), max_absolute_error=float("inf"))
    return Verdict(EvaluationStatus.INCORRECT_NUMERICAL, correctness or infinite, log)
