"""Verdict: status, errors and reason, as every judge returns it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

    def noting(self, **facts: Any) -> Verdict:
        """The same with ``facts`` beside its errors, where it has any."""
        if self.correctness is None:
            return self
        extra = {**(self.correctness.extra or {}), **facts}
        return Verdict(self.status, self.correctness.model_copy(update={"extra": extra}), self.log)


def wrong(log: str, correctness: Correctness | None = None) -> Verdict:
    """INCORRECT_NUMERICAL; without numbers the errors count as infinite."""
    infinite = Correctness(max_relative_error=float("inf"), max_absolute_error=float("inf"))
    return Verdict(EvaluationStatus.INCORRECT_NUMERICAL, correctness or infinite, log)
